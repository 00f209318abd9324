//! One line of a debugfs script, as debugfs takes it apart again. Pure.

use std::ffi::{OsStr, OsString};

/// debugfs reads lines of at most 8191 bytes.
const LONGEST: usize = 8000;

/// A name as a path from the working directory, which debugfs takes for nothing else, not even `<12>` or `-f`.
pub(super) fn here(name: &OsStr) -> OsString {
    let mut here = OsString::from("./");
    here.push(name);
    here
}

/// A command for debugfs: words that need it are in quotes, where a quote is written twice.
pub(super) fn line(words: &[&[u8]]) -> Vec<u8> {
    let mut line = Vec::new();
    for word in words {
        if !line.is_empty() {
            line.push(b' ');
        }
        if word.is_empty() || word.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'"')) {
            let quoted = word.iter().flat_map(|byte| if *byte == b'"' { vec![b'"', b'"'] } else { vec![*byte] });
            line.extend(std::iter::once(b'"').chain(quoted).chain([b'"']));
        } else {
            line.extend_from_slice(word);
        }
    }
    line
}

/// Whether debugfs reads this as (part of) one line.
pub(super) fn fits(line: &[u8]) -> bool {
    line.len() <= LONGEST && !line.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_they_need_it() {
        let table: [(&[&[u8]], &[u8]); 5] = [
            (&[b"mkdir", b"./a"], b"mkdir ./a"),
            (&[b"mkdir", b"./a b"], b"mkdir \"./a b\""),
            (&[b"mkdir", b"./\"\t"], b"mkdir \"./\"\"\t\""),
            (&[b"symlink", b"./back\\slash", b""], b"symlink ./back\\slash \"\""),
            (&[b"mkdir", b"./\xff"], b"mkdir ./\xff"),
        ];
        for (words, expected) in table {
            assert_eq!(line(words), expected, "{words:?}");
        }
    }

    #[test]
    fn a_line_has_no_breaks_and_a_longest_length() {
        assert!(fits(b"two words"));
        for bad in [b"new\nline".to_vec(), b"return\r".to_vec(), vec![b'x'; LONGEST + 1]] {
            assert!(!fits(&bad));
        }
    }
}
