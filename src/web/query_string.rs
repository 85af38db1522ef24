//! The parameters of a query string. The name of a parameter may be percent-encoded, as its value may: `?%61ll=true` is
//! `?all=true`. Every reader of a query has to agree on this, or one of them checks a parameter that another one ignores.

use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// The parameters that have a value: each name, decoded, and its value as the client sent it.
pub fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (decoded(name), value))
}

/// A name or a value, decoded. `+` is a space.
pub fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return text.into();
    }
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encoded_names_are_the_same_parameters() {
        let read = |query| -> Vec<_> {
            parameters(query).map(|(name, value)| (name.into_owned(), decoded(value).into_owned())).collect()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read("%61ll=true&u+s=a+b%2Bc"), [pair("all", "true"), pair("u s", "a b+c")]);
        assert_eq!(
            read("all&=&a==b&&%ff=%ff"),
            [pair("", ""), pair("a", "=b"), pair("\u{fffd}", "\u{fffd}")]
        );
        assert_eq!(read(""), []);
    }

    proptest! {
        /// Names and values as the query extractor of axum reads them.
        #[test]
        fn any_query_is_read_as_the_handlers_read_it(query in "([a-c=&+%]|%[0-9a-f]{2}){0,24}") {
            use axum::extract::Query;
            let uri = format!("/?{query}").parse().unwrap();
            let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&uri).unwrap();
            let ours: Vec<_> = parameters(&query).map(|(name, value)| (name.into_owned(), decoded(value).into_owned())).collect();
            // A pair without = is a name without a value there.
            let sent = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.contains('='));
            let pairs: Vec<_> = pairs.into_iter().zip(sent).filter(|(_, has_value)| *has_value).map(|(pair, _)| pair).collect();
            prop_assert_eq!(ours, pairs);
        }
    }
}
