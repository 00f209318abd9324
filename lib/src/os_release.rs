//! `os-release(5)`: what an operating system says that it is.

use std::fmt;

/// The fields of an os-release file that are of use here. A field that is missing or empty is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `ID`: a word such as `debian`.
    pub id: Option<String>,
    /// `NAME`.
    pub name: Option<String>,
    /// `PRETTY_NAME`: for people, with the version.
    pub pretty_name: Option<String>,
    /// `VERSION_ID`: a word such as `13`.
    pub version_id: Option<String>,
    /// `VERSION`: for people.
    pub version: Option<String>,
    /// `IMAGE_ID`: which image this is, where it is one of several of the same system.
    pub image_id: Option<String>,
    /// `IMAGE_VERSION`: which build of the image.
    pub image_version: Option<String>,
}

impl OsRelease {
    /// Reads an os-release file. Lines that are no assignment, or whose quotes do not close, are passed over; of several
    /// assignments the last counts.
    pub fn parse(text: &str) -> Self {
        let mut release = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let Some((key, value)) = line.split_once('=') else { continue };
            if let (Some(field), Some(value)) = (release.field(key), unquote(value)) {
                *field = Some(value).filter(|value| !value.is_empty());
            }
        }
        release
    }

    /// What to call it before people.
    pub fn title(&self) -> &str {
        [&self.pretty_name, &self.name, &self.id].into_iter().flatten().next().map_or("Linux", String::as_str)
    }

    fn field(&mut self, key: &str) -> Option<&mut Option<String>> {
        Some(match key {
            "ID" => &mut self.id,
            "NAME" => &mut self.name,
            "PRETTY_NAME" => &mut self.pretty_name,
            "VERSION_ID" => &mut self.version_id,
            "VERSION" => &mut self.version,
            "IMAGE_ID" => &mut self.image_id,
            "IMAGE_VERSION" => &mut self.image_version,
            _ => return None,
        })
    }
}

/// Writes the fields in the form that [`OsRelease::parse`] reads.
impl fmt::Display for OsRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            ("ID", &self.id),
            ("NAME", &self.name),
            ("PRETTY_NAME", &self.pretty_name),
            ("VERSION_ID", &self.version_id),
            ("VERSION", &self.version),
            ("IMAGE_ID", &self.image_id),
            ("IMAGE_VERSION", &self.image_version),
        ];
        for (key, value) in fields {
            if let Some(value) = value {
                writeln!(f, "{key}=\"{}\"", escape(value))?;
            }
        }
        Ok(())
    }
}

fn escape(value: &str) -> String {
    value.chars().flat_map(|c| matches!(c, '"' | '\\' | '$' | '`').then_some('\\').into_iter().chain([c])).collect()
}

/// Takes the quotes and escapes of a shell word away; `None` where a quote does not close or an escape ends the line.
fn unquote(value: &str) -> Option<String> {
    let mut plain = String::new();
    let mut chars = value.chars();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            (None, '\\') => plain.push(chars.next()?),
            (Some('"'), '\\') => match chars.next()? {
                escaped @ ('"' | '\\' | '$' | '`') => plain.push(escaped),
                other => plain.extend(['\\', other]),
            },
            _ => plain.push(c),
        }
    }
    quote.is_none().then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_s_is_read() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"13\"\nID=debian\n# ID=other\nHOME_URL=\"x\"\n";
        let expected = OsRelease {
            id: Some("debian".into()),
            name: Some("Debian GNU/Linux".into()),
            pretty_name: Some("Debian GNU/Linux 13 (trixie)".into()),
            version_id: Some("13".into()),
            ..OsRelease::default()
        };
        assert_eq!(OsRelease::parse(text), expected);
        assert_eq!(expected.title(), "Debian GNU/Linux 13 (trixie)");
        assert_eq!(OsRelease::default().title(), "Linux");
    }

    #[test]
    fn quoting_is_that_of_the_shell() {
        let table = [
            (r#""a \"b\" \$c \d""#, Some(r#"a "b" $c \d"#)),
            (r"'a \b'", Some(r"a \b")),
            (r"a\ b", Some("a b")),
            (r#""a"'b'"#, Some("ab")),
            ("\"\"", None),
            ("\"a", None),
            ("a\\", None),
        ];
        for (written, read) in table {
            assert_eq!(OsRelease::parse(&format!("NAME={written}")).name.as_deref(), read, "{written}");
        }
    }

    #[test]
    fn round_trips() {
        let release =
            OsRelease { name: Some(r#"a "$b" `c` \d 'e' #f"#.into()), image_version: Some("2026.1".into()), ..OsRelease::default() };
        assert_eq!(OsRelease::parse(&release.to_string()), release);
    }

    #[test]
    fn the_last_assignment_counts() {
        assert_eq!(OsRelease::parse("ID=a\nID=b\n").id.as_deref(), Some("b"));
    }
}
