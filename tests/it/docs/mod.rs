//! Documents and the structure of the source.

mod floors;
mod imports;
mod literals;
mod minting;
mod quoted;
mod texts;
