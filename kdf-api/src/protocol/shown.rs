//! Text of others that a person is shown, and decides by.

/// Whether a foreign text may stand in a line of ours as it is: at most `longest` bytes, and no character that a terminal
/// obeys, that cannot be seen, or that changes the order in which its neighbours are seen.
pub fn is_showable(text: &str, longest: usize) -> bool {
    text.len() <= longest && text.chars().all(may_be_shown)
}

/// Neither a control character, nor one of Unicode's that format and are not seen: the category `Cf` as far as it is not
/// part of a script, line and paragraph separators, and tags (Unicode 16, chapter 23; UTR #36, section 2.5).
pub(super) fn may_be_shown(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_or_hides_is_not_showable() {
        for good in ["", "kdf-file 1.0", "schlüssel", "鍵"] {
            assert!(is_showable(good, 64), "{good}");
        }
        for bad in [
            '\0',
            '\n',
            '\t',
            '\x1b',
            '\x7f',
            '\u{9b}',
            '\u{200b}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{e0041}',
        ] {
            assert!(!is_showable(&format!("kdf{bad}file"), 64), "{bad:?}");
        }
        assert!(is_showable("éé", 4) && !is_showable("éé", 3));
    }
}
