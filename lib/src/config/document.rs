//! One drop-in file: TOML with places, so that whatever is wrong is told with its line.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Key, Wrong};
use super::{ConfigError, Effective, File, Location, Zones};

/// Puts what a file says on top of what is there.
pub(super) fn apply(file: &File, zones: &Zones<'_>, effective: &mut Effective) -> Result<(), ConfigError> {
    let reading = Reading { file, zones };
    let document = DeTable::parse(&file.text).map_err(|error| {
        let what = format!("this is not TOML: {} (expected `key = value` and `[table]`)", error.message());
        reading.error(error.span().map_or(0, |span| span.start), what)
    })?;
    reading.table("", document.get_ref(), effective)
}

struct Reading<'a> {
    file: &'a File,
    zones: &'a Zones<'a>,
}

impl Reading<'_> {
    fn table(&self, prefix: &str, table: &DeTable<'_>, effective: &mut Effective) -> Result<(), ConfigError> {
        for (key, value) in table {
            let name = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            match (keys::find(&name), value.get_ref()) {
                (Some(known), _) => self.value(known, key.span().start, value, effective)?,
                (None, DeValue::Table(inner)) if keys::is_table(&name) => self.table(&name, inner, effective)?,
                (None, value) if keys::is_table(&name) => {
                    let what = format!("{name} is {} (expected a table with {})", keys::describe(value), keys::names(&name));
                    return Err(self.error(key.span().start, what));
                }
                (None, _) => return Err(self.error(key.span().start, format!("unknown key {name} (expected {})", keys::names(prefix)))),
            }
        }
        Ok(())
    }

    fn value(&self, key: &'static Key, start: usize, value: &Spanned<DeValue<'_>>, effective: &mut Effective) -> Result<(), ConfigError> {
        (key.set)(&mut effective.config, value.get_ref(), self.zones).map_err(|Wrong { element, found }| {
            // An element of a list may be on a line of its own.
            let at = element.unwrap_or(start);
            self.error(at, format!("{} {found} (expected {})", key.name, key.expected))
        })?;
        effective.from.insert(key.name, self.location(start));
        Ok(())
    }

    fn location(&self, at: usize) -> Location {
        let before = self.file.text.as_bytes().get(..at).unwrap_or_default();
        Location { file: self.file.path.clone(), line: before.iter().filter(|byte| **byte == b'\n').count() + 1 }
    }

    fn error(&self, at: usize, what: String) -> ConfigError {
        ConfigError { location: self.location(at), what }
    }
}
