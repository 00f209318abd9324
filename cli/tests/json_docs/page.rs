//! The page: a table of fields for each report, and for each object in them.

use std::collections::BTreeMap;
use std::fmt::Write;

use syn::{GenericArgument, PathArguments, Type};

use super::types::{Field, Key, Kind, Shape, Types, kebab};

/// Writes the page of these reports.
pub fn write(types: &Types, reports: &[(&str, Key)]) -> String {
    let mut verbs: Vec<(Key, Vec<&str>)> = Vec::new();
    for (verb, key) in reports {
        match verbs.iter_mut().find(|(known, _)| known == key) {
            Some((_, verbs)) => verbs.push(verb),
            None => verbs.push((key.clone(), vec![verb])),
        }
    }
    let mut page = Page { types, titles: BTreeMap::new() };
    for (key, verbs) in &verbs {
        let shown: Vec<String> = verbs.iter().map(|verb| format!("`selkie {verb}`")).collect();
        page.titles.insert(key.clone(), shown.join(", "));
    }
    let mut parts = page.collect(&verbs);
    let mut text = "## Reports\n".to_owned();
    for (key, _) in &verbs {
        page.section(&mut text, key);
    }
    text += "\n## What is in them\n";
    parts.sort_by_key(|key| &page.titles[key]);
    for key in &parts {
        page.section(&mut text, key);
    }
    text
}

struct Page<'t> {
    types: &'t Types,
    titles: BTreeMap<Key, String>,
}

impl Page<'_> {
    /// The objects in the reports that are no reports. Each gets a title: its name, with the first verb that has it where others have the same name.
    fn collect(&mut self, verbs: &[(Key, Vec<&str>)]) -> Vec<Key> {
        let mut first: BTreeMap<Key, &str> = BTreeMap::new();
        for (report, verbs) in verbs {
            let mut open = vec![report.clone()];
            while let Some(key) = open.pop() {
                let new = |key: &Key| !self.titles.contains_key(key) && !first.contains_key(key);
                let inner =
                    self.fields(&key).iter().filter_map(|(module, field)| self.inner(module, field)).filter(new).collect::<Vec<_>>();
                first.extend(inner.iter().map(|key| (key.clone(), verbs[0])));
                open.extend(inner);
            }
        }
        for (key, verb) in &first {
            let alone = first.keys().filter(|(_, name)| *name == key.1).count() == 1;
            let name = kebab(&key.1).replace('-', " ");
            let title = if alone { name } else { format!("{name} of {verb}") };
            self.titles.insert(key.clone(), title);
        }
        first.into_keys().collect()
    }

    /// The fields of an object, each with the module that it is from; those of flat ones in their places.
    fn fields(&self, key: &Key) -> Vec<(String, &Field)> {
        let Shape::Object(fields) = self.types.shape(key) else { return Vec::new() };
        let mut all = Vec::new();
        for field in fields {
            match self.inner(&key.0, field).filter(|_| field.flat) {
                Some(inner) => all.extend(self.fields(&inner)),
                None => all.push((key.0.clone(), field)),
            }
        }
        all
    }

    /// The object of ours that a field has in it.
    fn inner(&self, module: &str, field: &Field) -> Option<Key> {
        match &field.kind {
            Kind::Type(kind) => self.object(module, kind),
            Kind::Words(_) => None,
        }
    }

    /// The object of ours that a type has in it.
    fn object(&self, module: &str, kind: &Type) -> Option<Key> {
        let (path, arguments) = parts(kind);
        let found = self.types.resolve(module, &path).filter(|key| matches!(self.types.shape(key), Shape::Object(_)));
        found.or_else(|| arguments.iter().find_map(|kind| self.object(module, kind)))
    }

    fn section(&self, text: &mut String, key: &Key) {
        write!(text, "\n### {}\n\n{}\n\n| field | value | meaning |\n|---|---|---|\n", self.titles[key], said(self.types.about(key)))
            .unwrap();
        for (module, field) in self.fields(key) {
            let (value, values) = match &field.kind {
                Kind::Type(kind) => (self.value(&module, kind), self.values(&module, kind)),
                Kind::Words(words) => (WORD.to_owned(), meanings(words)),
            };
            let about = [said(&field.about), values].concat();
            writeln!(text, "| `{}` | {value} | {} |", field.name, about.trim()).unwrap();
        }
    }

    /// What a value looks like.
    fn value(&self, module: &str, kind: &Type) -> String {
        let (path, arguments) = parts(kind);
        let inner = || self.value(module, arguments.last().unwrap());
        match &**path.last().unwrap() {
            "Option" => format!("{}, or null", inner()),
            "Vec" | "BTreeSet" | "[]" => format!("list: {}", inner()),
            "BTreeMap" => format!("object, each: {}", inner()),
            "Box" | "Arc" => inner(),
            "String" | "str" | "PathBuf" => "text".to_owned(),
            "bool" => "true or false".to_owned(),
            "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" | "f64" => "number".to_owned(),
            "Value" => "any".to_owned(),
            name => {
                let key = self.types.resolve(module, &path).unwrap_or_else(|| panic!("{module}: unknown type {name}"));
                match self.types.shape(&key) {
                    Shape::Object(_) => format!("[{}](#{})", self.titles[&key].replace('`', ""), anchor(&self.titles[&key])),
                    Shape::Words(_) => WORD.to_owned(),
                    Shape::Text => "text".to_owned(),
                }
            }
        }
    }

    /// The words that a value is one of, each with its meaning.
    fn values(&self, module: &str, kind: &Type) -> String {
        let (path, arguments) = parts(kind);
        let own = self.types.resolve(module, &path);
        if let Some(Shape::Words(words)) = own.as_ref().map(|key| self.types.shape(key)) {
            return meanings(words);
        }
        arguments.iter().map(|kind| self.values(module, kind)).collect()
    }
}

/// How the value of an enumeration is shown.
const WORD: &str = "a word";

/// The words of an enumeration, each with its meaning.
fn meanings(words: &[(String, String)]) -> String {
    let word = |(word, about): &(String, String)| {
        let about = said(about);
        if about.is_empty() { format!("`{word}`") } else { format!("`{word}`: {}", about.trim_end_matches('.')) }
    };
    format!(" {}.", words.iter().map(word).collect::<Vec<_>>().join("; "))
}

/// A type's path, and the types in it.
fn parts(kind: &Type) -> (Vec<String>, Vec<Type>) {
    match kind {
        Type::Reference(reference) => parts(&reference.elem),
        Type::Slice(slice) => (vec!["[]".to_owned()], vec![(*slice.elem).clone()]),
        Type::Array(array) => (vec!["[]".to_owned()], vec![(*array.elem).clone()]),
        Type::Path(path) => {
            let arguments = match &path.path.segments.last().unwrap().arguments {
                PathArguments::AngleBracketed(arguments) => {
                    let types = arguments.args.iter().filter_map(|argument| match argument {
                        GenericArgument::Type(kind) => Some(kind.clone()),
                        _ => None,
                    });
                    types.collect()
                }
                _ => Vec::new(),
            };
            (path.path.segments.iter().map(|segment| segment.ident.to_string()).collect(), arguments)
        }
        _ => panic!("a type of an unknown form"),
    }
}

/// A comment as a reader of JSON wants it: without links, and with JSON's names.
fn said(comment: &str) -> String {
    let mut text = comment.replace("`None`", "`null`").replace('|', "\\|").replace("[`", "`").replace("`]", "`");
    while let Some(at) = text.find("`(") {
        let end = text[at..].find(')').map_or(text.len(), |end| at + end + 1);
        text.replace_range(at + 1..end, "");
    }
    text
}

/// The name that a heading has in links.
fn anchor(title: &str) -> String {
    title.chars().filter(|letter| letter.is_alphanumeric() || "- ".contains(*letter)).collect::<String>().to_lowercase().replace(' ', "-")
}
