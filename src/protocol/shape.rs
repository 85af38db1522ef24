//! The shape of clients' JSON: which fields an object has, and what each of them must be. It is checked before serde reads
//! the text, so that a refusal names the field, its value and what is allowed. Nothing is kept, whatever the text contains,
//! and a list that is too long is read no further.

use crate::error::{MAX_TTL_MS, MAX_USERS, MIN_TTL_MS, shown};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// An object.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Its name in a refusal, such as "the body".
    pub name: &'static str,
    /// The bearer of the fields, such as "this request".
    pub owner: &'static str,
    /// The object as one may write it.
    pub example: &'static str,
    /// The fields that it may have.
    pub fields: &'static [Field],
}

/// A field.
#[derive(Debug, Clone, Copy)]
pub struct Field(pub &'static str, pub Form, pub Need);

/// The required form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Anything: it is checked elsewhere.
    Any,
    /// A string.
    Text,
    /// A string that no message may show.
    Secret,
    /// A list of strings.
    Texts,
    /// A list of at most [`MAX_USERS`] strings.
    Users,
    /// True or false.
    Boolean,
    /// A time in milliseconds.
    Milliseconds,
    /// A list of at most [`MAX_USERS`] strings and objects with the fields of [`HEARTBEAT`].
    Heartbeats,
}

/// Whether a field may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It must be there.
    Required,
    /// It may be left out.
    Optional,
    /// It may be left out or null.
    Nullable,
}

/// One heartbeat of a list.
const HEARTBEAT: Shape = Shape {
    name: "a heartbeat",
    owner: "a heartbeat",
    example: r#"{"user":"alice","session":"phone"}"#,
    fields: &[
        Field("user", Form::Text, Need::Required),
        Field("session", Form::Text, Need::Nullable),
        Field("ttl_ms", Form::Milliseconds, Need::Nullable),
    ],
};

/// Why a text is refused.
#[derive(Debug)]
pub enum Fault {
    /// It is not JSON.
    NotJson(serde_json::Error),
    /// It is JSON of another shape; the text says what is wrong, and what is allowed.
    Shape(String),
    /// This list has more than [`MAX_USERS`] elements. The reader stopped there.
    TooLong(&'static str),
}

impl Shape {
    /// Checks that a text is an object of this shape, and that no field occurs twice: readers differ in which one they take.
    ///
    /// # Errors
    /// The first fault. A text that is not JSON is reported as such, also where another fault comes first; a list that is too
    /// long is reported before all others.
    pub fn check(&'static self, text: &[u8]) -> Result<(), Fault> {
        let mut found = None;
        let mut json = serde_json::Deserializer::from_slice(text);
        let whole = Reading {
            expects: Expected::Object(self),
            need: Need::Required,
            place: Place::Whole(self),
            found: &mut found,
        };
        let read = whole.deserialize(&mut json).and_then(|()| json.end());
        match (found, read) {
            (Some(fault @ Fault::TooLong(_)), _) => Err(fault),
            (_, Err(why)) => Err(Fault::NotJson(why)),
            (Some(fault), Ok(())) => Err(fault),
            (None, Ok(())) => Ok(()),
        }
    }
}

impl Form {
    fn expected(self) -> String {
        match self {
            Form::Any => "any value".into(),
            Form::Text | Form::Secret => "a string".into(),
            Form::Texts | Form::Users => r#"a list of strings, such as ["alice","bob"]"#.into(),
            Form::Boolean => "true or false".into(),
            Form::Milliseconds => milliseconds(),
            Form::Heartbeats => {
                format!(r#"a list of strings and objects, such as ["alice",{}]"#, HEARTBEAT.example)
            }
        }
    }
}

/// The required form of a TTL.
pub fn milliseconds() -> String {
    format!("a whole number of milliseconds from {MIN_TTL_MS} to {MAX_TTL_MS}")
}

/// A value of any type, in words, such as `5, a number`.
pub fn described(value: &serde_json::Value) -> String {
    use serde_json::Value::{Array, Bool, Null, Number, Object, String};
    match value {
        Null => "null".into(),
        Bool(value) => value.to_string(),
        Number(value) => format!("{value}, a number"),
        String(value) => format!("{}, a string", shown(value)),
        Array(_) => "a list".into(),
        Object(_) => "an object".into(),
    }
}

/// The source that is read.
#[derive(Clone, Copy)]
enum Expected {
    Form(Form),
    /// One element of [`Form::Texts`] or [`Form::Users`].
    OneText,
    /// One element of [`Form::Heartbeats`].
    OneHeartbeat,
    Object(&'static Shape),
}

/// Where a value stands.
#[derive(Clone, Copy)]
enum Place {
    Whole(&'static Shape),
    Field(&'static str),
    Element(&'static str, usize),
    FieldOf(&'static str, usize, &'static str),
}

impl Place {
    fn field(self, name: &'static str) -> Place {
        match self {
            Place::Element(list, at) => Place::FieldOf(list, at, name),
            _ => Place::Field(name),
        }
    }

    /// The beginning of a text about a field of this object.
    fn of(self) -> String {
        if matches!(self, Place::Element(..)) { format!("{self}: ") } else { String::new() }
    }

    /// The name of a list.
    fn list(self) -> &'static str {
        match self {
            Place::Whole(shape) => shape.name,
            Place::Field(name) | Place::Element(name, _) | Place::FieldOf(.., name) => name,
        }
    }

    fn element(self, at: usize) -> Place {
        match self {
            Place::Field(name) => Place::Element(name, at),
            other => other,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Whole(shape) => f.write_str(shape.name),
            Place::Field(name) => f.write_str(name),
            Place::Element(list, at) => write!(f, "{list}[{at}]"),
            Place::FieldOf(list, at, name) => write!(f, "{list}[{at}]: {name}"),
        }
    }
}

fn note(found: &mut Option<Fault>, fault: impl FnOnce() -> String) {
    found.get_or_insert_with(|| Fault::Shape(fault()));
}

/// Reads one value to its end, and notes the first fault.
struct Reading<'a> {
    expects: Expected,
    need: Need,
    place: Place,
    found: &'a mut Option<Fault>,
}

impl Reading<'_> {
    fn note(self, fault: impl FnOnce() -> String) {
        note(self.found, fault);
    }

    /// Notes that the value is of another type; `value` shows it.
    fn wrong(self, value: &str, kind: &str) {
        let (place, expects) = (self.place, self.expects);
        self.note(|| {
            let value = match expects {
                Expected::Form(Form::Secret) => kind.to_owned(),
                _ if value.is_empty() => kind.to_owned(),
                _ if kind.is_empty() => value.to_owned(),
                _ => format!("{value}, {kind}"),
            };
            let wanted = match expects {
                Expected::Form(form) => format!("it must be {}", form.expected()),
                Expected::OneText => format!("the list must be {}", Form::Texts.expected()),
                Expected::OneHeartbeat => {
                    format!("each element must be a string, or an object such as {}", HEARTBEAT.example)
                }
                Expected::Object(shape) => format!("it must be a JSON object, such as {}", shape.example),
            };
            format!("{place} is {value}; {wanted}")
        });
    }

    fn number(self, value: impl fmt::Display, whole: bool) {
        match self.expects {
            Expected::Form(Form::Any) => {}
            Expected::Form(Form::Milliseconds) if whole => {}
            _ => self.wrong(&value.to_string(), "a number"),
        }
    }

    fn fields<'de, A: MapAccess<'de>>(self, shape: &'static Shape, mut map: A) -> Result<(), A::Error> {
        let Reading { place, found, .. } = self;
        let mut seen = vec![false; shape.fields.len()];
        while let Some(key) = map.next_key_seed(Name(shape.fields, found.is_none()))? {
            match key {
                Ok(at) => {
                    let Field(name, form, need) = shape.fields[at];
                    if std::mem::replace(&mut seen[at], true) {
                        note(found, || {
                            format!("{}the field {name:?} occurs twice; send it once", place.of())
                        });
                    }
                    let expects = Expected::Form(form);
                    map.next_value_seed(Reading { expects, need, place: place.field(name), found })?;
                }
                Err(unknown) => {
                    map.next_value::<IgnoredAny>()?;
                    note(found, || {
                        let names: Vec<&str> = shape.fields.iter().map(|Field(name, ..)| *name).collect();
                        let (element, owner) = (place.of(), shape.owner);
                        match names.join(", ") {
                            none if none.is_empty() => {
                                format!("{element}{owner} has no field {unknown}; it needs no body")
                            }
                            names => {
                                format!("{element}{owner} has no field {unknown}; its fields are: {names}")
                            }
                        }
                    });
                }
            }
        }
        let missing =
            shape.fields.iter().zip(seen).find(|(Field(.., need), seen)| *need == Need::Required && !seen);
        if let Some((Field(name, form, _), _)) = missing {
            let place = place.field(name);
            note(found, || format!("{place} is missing; it must be {}", form.expected()));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        if !matches!(self.expects, Expected::Form(Form::Any | Form::Boolean)) {
            let kind = if matches!(self.expects, Expected::Form(Form::Secret)) { "a boolean" } else { "" };
            self.wrong(&value.to_string(), kind);
        }
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.number(value, true);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.number(value, value >= 0);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.number(value, super::whole_number(value).is_some());
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        let is_text = matches!(
            self.expects,
            Expected::Form(Form::Any | Form::Text | Form::Secret)
                | Expected::OneText
                | Expected::OneHeartbeat
        );
        if !is_text {
            self.wrong(&shown(value), "a string");
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        match (self.need, self.expects) {
            (Need::Nullable, _) | (_, Expected::Form(Form::Any)) => {}
            (Need::Optional, Expected::Form(form)) => {
                let place = self.place;
                self.note(|| format!("{place} is null; it must be {}, or be left out", form.expected()));
            }
            _ => self.wrong("", "null"),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let (each, most) = match self.expects {
            // A message has a limit of its own, and the names that it has too many of are refused one by one.
            Expected::Form(Form::Texts) => (Expected::OneText, usize::MAX),
            Expected::Form(Form::Users) => (Expected::OneText, MAX_USERS),
            Expected::Form(Form::Heartbeats) => (Expected::OneHeartbeat, MAX_USERS),
            expects => {
                if !matches!(expects, Expected::Form(Form::Any)) {
                    self.wrong("", "a list");
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(());
            }
        };
        let Reading { place, found, .. } = self;
        for at in 0..most {
            let element = Reading { expects: each, need: Need::Required, place: place.element(at), found };
            if list.next_element_seed(element)?.is_none() {
                return Ok(());
            }
        }
        match list.next_element::<IgnoredAny>()? {
            None => Ok(()),
            Some(_) => {
                *found = Some(Fault::TooLong(place.list()));
                Err(A::Error::custom("the list is too long"))
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self.expects {
            Expected::Object(shape) => self.fields(shape, map),
            Expected::OneHeartbeat => self.fields(&HEARTBEAT, map),
            expects => {
                if !matches!(expects, Expected::Form(Form::Any)) {
                    self.wrong("", "an object");
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(())
            }
        }
    }
}

/// Reads the name of a field: its place among the known ones, or what to show of an unknown one, if it may be the first
/// fault.
struct Name(&'static [Field], bool);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Result<usize, String>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Result<usize, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let Name(fields, is_shown) = self;
        let known = fields.iter().position(|Field(known, ..)| *known == name);
        Ok(known.ok_or_else(|| if is_shown { shown(name) } else { String::new() }))
    }
}
