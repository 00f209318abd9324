//! Time zones by name: from the files of a system, which its image brings up to date; where it has none, from the copy in this program.

use jiff::tz::{TimeZone, TimeZoneDatabase};

/// Where a system has them, seen from its root.
const FOLDER: &str = "usr/share/zoneinfo";

/// The time zone of this name, such as `Europe/Berlin`. `read` gives the bytes of a file, by its path from the root.
pub fn zone(name: &str, read: impl Fn(&str) -> Option<Vec<u8>>) -> Option<TimeZone> {
    if !name.split('/').all(|part| !part.is_empty() && part != "." && part != "..") {
        return None;
    }
    let of_system = read(&format!("{FOLDER}/{name}")).and_then(|bytes| TimeZone::tzif(name, &bytes).ok());
    of_system.or_else(|| TimeZoneDatabase::bundled().get(name).ok())
}
