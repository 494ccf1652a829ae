//! The patterns of a rule: of identities, and of logical ids, which take parts of the identity over.
//!
//! `{x}` in `who` stands for one DNS label, and in `on` for what it stood for in `who`. A label is as long as it can be, and
//! the text after it begins with a character that no label holds, or ends there. Otherwise the account `a` could take the
//! names of the account `a-b` by way of `{sa}-*`.

use crate::rights::{Identity, Kind};
use crate::{
    model::input::{LOGICAL_ID_MAX_BYTES, plain_text},
    rights::names::Pattern,
};

/// The longest DNS label, in bytes.
const LABEL_MAX: usize = 63;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Slot(String),
}

/// What the slots of a pattern stand for in one identity.
pub(super) type Bindings<'a> = Vec<(&'a str, &'a str)>;

/// Identities that a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who {
    text: String,
    pieces: Vec<Piece>,
}

/// Logical ids that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct On {
    /// Without the final `*`.
    text: String,
    pieces: Vec<Piece>,
    is_prefix: bool,
}

fn of_label(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

/// Takes a text apart at its slots.
fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    let stray = || format!("{text:?} has a brace without its counterpart; write a placeholder as {{name}}");
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or_else(stray)?;
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        {
            return Err(format!(
                "{text:?} has the placeholder {name:?}; name it with lower-case letters, digits and _"
            ));
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        pieces.push(Piece::Slot(name.to_owned()));
        rest = after;
        if after.bytes().next().is_some_and(|byte| of_label(byte) || byte == b'{') {
            return Err(format!(
                "in {text:?} the text after {{{name}}} begins with a character that its value may hold, so one name could be \
                 read in two ways; put one of _ / : . behind it"
            ));
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    if pieces.iter().any(|piece| matches!(piece, Piece::Text(text) if text.contains('}'))) {
        return Err(stray());
    }
    Ok(pieces)
}

fn slots(pieces: &[Piece]) -> impl Iterator<Item = &str> {
    pieces.iter().filter_map(|piece| match piece {
        Piece::Slot(name) => Some(name.as_str()),
        Piece::Text(_) => None,
    })
}

impl Who {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('*') {
            return Err(format!(
                "{text:?} has a *, which identities cannot have; a placeholder {{name}} stands for one label"
            ));
        }
        let pieces = pieces(text)?;
        let mut seen: Vec<&str> = slots(&pieces).collect();
        seen.sort_unstable();
        if let Some(twice) = seen.windows(2).find(|pair| pair.first() == pair.last()).and_then(|pair| pair.first()) {
            return Err(format!("{text:?} has {{{twice}}} twice; give the two different names"));
        }
        // A label fits wherever a letter does.
        let example: String =
            pieces.iter().map(|piece| if let Piece::Text(text) = piece { text } else { "x" }).collect();
        let example = Identity::parse(&example).map_err(|error| format!("{text:?} {error}"))?;
        match example.kind() {
            Kind::Local => Err(format!("{text:?} may do everything without a rule; remove it")),
            Kind::Certificate | Kind::Token | Kind::Jwt | Kind::Anonymous => Ok(Self { text: text.to_owned(), pieces }),
        }
    }

    /// As it is written.
    pub(super) fn written(&self) -> &str {
        &self.text
    }

    /// What the slots stand for in an identity; `None` if it is not one of these.
    pub(super) fn bind<'a>(&'a self, identity: &'a Identity) -> Option<Bindings<'a>> {
        self.bind_text(identity.as_str())
    }

    fn bind_text<'a>(&'a self, identity: &'a str) -> Option<Bindings<'a>> {
        // A caller could leave its credential out, so what is for those without one is for all.
        if self.text == "anonymous" {
            return Some(Vec::new());
        }
        let (mut rest, mut bindings) = (identity, Vec::new());
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => rest = rest.strip_prefix(text.as_str())?,
                Piece::Slot(name) => {
                    let end = rest.bytes().position(|byte| !of_label(byte)).unwrap_or(rest.len());
                    let (label, after) = rest.split_at_checked(end)?;
                    let is_label = (1..=LABEL_MAX).contains(&end) && !label.starts_with('-') && !label.ends_with('-');
                    bindings.push((name.as_str(), Some(label).filter(|_| is_label)?));
                    rest = after;
                }
            }
        }
        rest.is_empty().then_some(bindings)
    }

    /// Whether it is for callers with a certificate.
    pub(super) fn is_of_certificates(&self) -> bool {
        self.text.starts_with("spiffe://") || self.text.starts_with("cert/")
    }

    /// Whether it is for callers without a credential.
    pub(super) fn is_for_anonymous(&self) -> bool {
        self.text == "anonymous"
    }

    /// Whether it names this identity, without placeholders and not by way of `anonymous`.
    pub(super) fn is_for(&self, identity: &Identity) -> bool {
        self.text == identity.as_str()
    }

    /// Whether it is for all identities that the other one is for. `depends`: what it grants depends on its slots.
    pub(super) fn covers(&self, other: &Self, depends: bool) -> bool {
        let is_one = slots(&other.pieces).next().is_none();
        self.text == other.text
            || !depends && (self.text == "anonymous" || is_one && self.bind_text(&other.text).is_some())
    }

    /// Whether it has a slot of this name.
    pub(super) fn has_slot(&self, name: &str) -> bool {
        slots(&self.pieces).any(|slot| slot == name)
    }
}

impl On {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (literal, is_prefix) = text.strip_suffix('*').map_or((text, false), |literal| (literal, true));
        if literal.contains('*') {
            return Err(format!("{text:?} has a * that is not at its end; a * stands for all names that begin so"));
        }
        if literal.is_empty() && !is_prefix {
            return Err("a logical id is empty; write its name, or * for all".to_owned());
        }
        plain_text("on", literal, LOGICAL_ID_MAX_BYTES).map_err(|error| format!("{text:?} {}", error.problem))?;
        let pieces = pieces(literal)?;
        match pieces.last() {
            Some(Piece::Slot(name)) if is_prefix => Err(format!(
                "{text:?} would let the account a take the names of the account ab; end it with {{{name}}}, and give names that \
                 go on another entry, such as {{{name}}}_*"
            )),
            _ => Ok(Self { text: literal.to_owned(), pieces, is_prefix }),
        }
    }

    /// The names that it is about, for an identity.
    pub(super) fn fill(&self, bindings: &Bindings<'_>) -> Pattern {
        let value = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Slot(name) => {
                bindings.iter().find(|(slot, _)| slot == name).map_or(String::new(), |(_, value)| (*value).to_owned())
            }
        };
        let text = self.pieces.iter().map(value).collect();
        if self.is_prefix { Pattern::Prefix(text) } else { Pattern::Exact(text) }
    }

    /// As it is written.
    pub(super) fn written(&self) -> String {
        format!("{}{}", self.text, if self.is_prefix { "*" } else { "" })
    }

    pub(super) fn has_slots(&self) -> bool {
        self.slots().next().is_some()
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &str> {
        slots(&self.pieces)
    }

    /// Whether it is about all names.
    pub(super) fn is_everything(&self) -> bool {
        self.is_prefix && self.text.is_empty()
    }

    /// Whether it is about all names that the other one is about.
    pub(super) fn covers(&self, other: &Self) -> bool {
        if self.is_prefix { other.text.starts_with(&self.text) } else { !other.is_prefix && self.text == other.text }
    }
}
