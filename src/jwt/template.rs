//! From the claims of a token to an identity: `k8s/{kubernetes.io.namespace}/{kubernetes.io.serviceaccount.name}`.
//!
//! A placeholder is a whole part between slashes, and what it stands for has no slash: otherwise a claim could say two parts
//! at once. It names a claim, with dots between an object and its member; names of claims may have dots themselves.

use super::{
    json::{Json, Object},
    problem::{Problem, shown},
};

/// The longest value of a claim in an identity, in bytes.
const VALUE_MAX_BYTES: usize = 253;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Claim(String),
}

/// How the tokens of an issuer are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let part = |part: &str| match part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(claim) if !claim.is_empty() && !claim.contains(['{', '}']) => Ok(Part::Claim(claim.to_owned())),
            None if !part.is_empty() && !part.contains(['{', '}']) => Ok(Part::Text(part.to_owned())),
            _ => Err(format!(
                "{text:?} has the part {part:?}; write a text, or one claim in braces, between two slashes"
            )),
        };
        let parts = text.split('/').map(part).collect::<Result<Vec<_>, _>>()?;
        let is_text = |at: usize| matches!(parts.get(at), Some(Part::Text(_)));
        let has_form = match parts.first() {
            Some(Part::Text(first)) if first == "k8s" => parts.len() == 3,
            Some(Part::Text(first)) if first == "jwt" => parts.len() >= 3 && is_text(1),
            _ => false,
        };
        if !has_form {
            return Err(format!(
                "{text:?} is neither k8s/{{...}}/{{...}} nor jwt/NAME/{{...}}; begin it with one of them"
            ));
        }
        if parts.iter().all(|part| matches!(part, Part::Text(_))) {
            return Err(format!("{text:?} names all holders of tokens alike; put a claim in braces, such as {{sub}}"));
        }
        Ok(Self(parts))
    }

    /// What all its identities begin with.
    #[must_use]
    pub fn beginning(&self) -> String {
        let texts = self.0.iter().map_while(|part| if let Part::Text(text) = part { Some(text) } else { None });
        texts.fold(String::new(), |all, text| all + text + "/")
    }

    /// An identity of this form.
    #[must_use]
    pub fn example(&self) -> String {
        let text = |part: &Part| if let Part::Text(text) = part { text.clone() } else { "x".to_owned() };
        self.0.iter().map(text).collect::<Vec<_>>().join("/")
    }

    /// The identity that claims give.
    pub(super) fn fill(&self, claims: &Object) -> Result<String, Problem> {
        let value = |part: &Part| match part {
            Part::Text(text) => Ok(text.clone()),
            Part::Claim(path) => match values(claims, path).as_slice() {
                [Json::Text(value)] if !value.is_empty() && value.len() <= VALUE_MAX_BYTES && !value.contains('/') => {
                    Ok(value.clone())
                }
                _ => Err(Problem::Claim(format!(
                    "has no claim {:?} that is a text without a slash; the issuer's identity needs it",
                    shown(path)
                ))),
            },
        };
        Ok(self.0.iter().map(value).collect::<Result<Vec<_>, _>>()?.join("/"))
    }
}

/// All that a path may mean: `a.b` is the member `a.b`, and the member `b` of the object `a`.
fn values<'a>(object: &'a Object, path: &str) -> Vec<&'a Json> {
    let inner = object.iter().filter_map(|(name, value)| {
        let rest = path.strip_prefix(name.as_str())?.strip_prefix('.')?;
        if let Json::Object(inner) = value { Some(values(inner, rest)) } else { None }
    });
    object.get(path).into_iter().chain(inner.flatten()).collect()
}
