//! Documents and the structure of the source.

mod floors;
mod imports;
mod texts;
