//! Text of others on the screen: what cannot be seen is escaped, and what is shown has a width.
//!
//! What a registry holds was written by any client, so a name must not be able to clear the screen, forge a row, reorder
//! a line, or look like another name because of characters that take no room. Columns are padded by the width on the
//! screen: wide characters take two columns, combining ones none.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Characters that show nothing, or change how others are shown: what Unicode calls default ignorable, separators other
/// than the space, format characters, and blanks that are letters or symbols. Control characters are told by their kind.
/// Sorted, both ends included.
const INVISIBLE: &[(char, char)] = &[
    // No-break space, soft hyphen, combining grapheme joiner, Arabic letter mark.
    ('\u{a0}', '\u{a0}'),
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    // Hangul fillers, Ogham space, Khmer inherent vowels, Mongolian selectors.
    ('\u{115f}', '\u{1160}'),
    ('\u{1680}', '\u{1680}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    // Spaces of other widths, zero-width characters, line and paragraph separators, bidirectional controls.
    ('\u{2000}', '\u{200f}'),
    ('\u{2028}', '\u{202f}'),
    ('\u{205f}', '\u{206f}'),
    // Braille blank, ideographic space, Hangul filler.
    ('\u{2800}', '\u{2800}'),
    ('\u{3000}', '\u{3000}'),
    ('\u{3164}', '\u{3164}'),
    // Variation selectors, byte order mark, halfwidth filler, interlinear annotation.
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    // Shorthand and musical controls, tags and further variation selectors.
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

fn is_invisible(c: char) -> bool {
    let at = INVISIBLE.partition_point(|(_, last)| *last < c);
    c.is_control() || INVISIBLE.get(at).is_some_and(|(first, _)| *first <= c)
}

/// Replaces what cannot be seen. A combining character at the beginning too: it would join what stands before the text.
#[must_use]
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let joins = |at: usize, c: char| at == 0 && c.width() == Some(0);
    if !text.char_indices().any(|(at, c)| is_invisible(c) || joins(at, c)) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for (at, c) in text.char_indices() {
        if is_invisible(c) || joins(at, c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Replaces what cannot be seen in a document of JSON, by the escapes of JSON: it means the same. Outside of strings a
/// document has only blanks and line breaks of its own, which stay.
#[must_use]
pub(crate) fn escape_json(document: String) -> String {
    escape_by(document, |c| {
        let mut units = [0; 2];
        c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
    })
}

/// Replaces what cannot be seen in a document of JSON that is to be read as YAML, which knows no pairs of escapes.
#[must_use]
pub(crate) fn escape_yaml(document: String) -> String {
    escape_by(document, |c| format!("\\U{:08x}", u32::from(c)))
}

/// Whether a document holds what cannot be seen; line breaks are its own.
#[must_use]
pub(crate) fn hides(document: &str) -> bool {
    document.contains(is_hidden)
}

fn is_hidden(c: char) -> bool {
    is_invisible(c) && c != '\n'
}

fn escape_by(document: String, escape: impl Fn(char) -> String) -> String {
    if !hides(&document) {
        return document;
    }
    let mut escaped = String::with_capacity(document.len() + 16);
    for c in document.chars() {
        if is_hidden(c) { escaped.push_str(&escape(c)) } else { escaped.push(c) }
    }
    escaped
}

/// How many columns of a terminal a text takes.
#[must_use]
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The text, filled up with blanks to so many columns.
#[must_use]
pub(crate) fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_text_stays_and_invisible_text_is_escaped() {
        for text in ["naïve 名", "推荐服务", "🚀🚀", "e\u{301}tude", "größe", "a b"] {
            assert_eq!(escape(text), text);
        }
        assert_eq!(escape("a\nb\tc"), "a\\nb\\tc");
        assert_eq!(escape("\u{1b}[2J\u{9b}\u{202e}\0"), "\\u{1b}[2J\\u{9b}\\u{202e}\\u{0}");
        // No-break and ideographic space, zero-width joiner, BOM, soft hyphen, filler, selectors, tags, separators.
        let hidden =
            "\u{a0}\u{3000}\u{200d}\u{feff}\u{ad}\u{3164}\u{fe0f}\u{e0041}\u{2028}\u{2029}\u{2066}\u{2800}\u{7f}";
        for c in hidden.chars() {
            assert_eq!(escape(&format!("a{c}b")), format!("a\\u{{{:x}}}b", u32::from(c)));
        }
    }

    #[test]
    fn combining_character_does_not_join_the_preceding_text() {
        assert_eq!(escape("\u{301}x"), "\\u{301}x");
    }

    #[test]
    fn the_table_of_invisible_characters_is_in_order() {
        assert!(INVISIBLE.iter().all(|(first, last)| first <= last));
        assert!(INVISIBLE.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }

    #[test]
    fn json_with_escapes_means_the_same() {
        let value = serde_json::json!({ "route": "a\u{9b}\u{202e}\u{e0041}b\n", "n": [1, 2] });
        let text = escape_json(format!("{value:#}\n"));
        assert!(text.contains("\\u009b\\u202e\\udb40\\udc41b\\n"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), value);
    }

    #[test]
    fn a_width_is_that_on_the_screen() {
        for (text, columns) in [("plain", 5), ("推荐服务", 8), ("🚀🚀", 4), ("e\u{301}tude", 5), ("größe", 5)]
        {
            assert_eq!(width(text), columns, "{text}");
            assert_eq!(width(&pad(text, 10)), 10, "{text}");
        }
        assert_eq!(pad("long", 2), "long");
    }
}
