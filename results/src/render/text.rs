//! Text in files of other languages.

/// Text as HTML and SVG have it, in an attribute too.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    // Writing into memory does not fail.
    let _ = pulldown_cmark_escape::escape_html(&mut escaped, text);
    escaped
}
