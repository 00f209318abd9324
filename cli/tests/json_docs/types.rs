//! The types that serde writes, read from the sources: their fields, and what the comments say of them.

use std::collections::BTreeMap;
use std::path::Path;

use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Ident, Item, Lit, Meta, Token, Type, UseTree};

/// A type by its module, as `ops::pull`, and its name.
pub type Key = (String, String);

/// A type that is written.
pub enum Shape {
    /// Its fields.
    Object(Vec<Field>),
    /// Its values, with what each means.
    Words(Vec<(String, String)>),
    /// Any text.
    Text,
}

/// A field, as it is written.
pub struct Field {
    pub name: String,
    pub about: String,
    pub kind: Kind,
    /// Its own fields are written in its place.
    pub flat: bool,
}

/// What the value of a field is.
pub enum Kind {
    /// One of a type.
    Type(Type),
    /// One of these words, each with what it means.
    Words(Vec<(String, String)>),
}

/// All types of a crate.
#[derive(Default)]
pub struct Types {
    shapes: BTreeMap<Key, Shape>,
    abouts: BTreeMap<Key, String>,
    /// Where names come from that a module takes from elsewhere.
    uses: BTreeMap<Key, Vec<String>>,
}

impl Types {
    /// Reads all sources below a directory.
    pub fn read(root: &Path) -> Self {
        let mut types = Self::default();
        types.directory(root, &[]);
        types
    }

    fn directory(&mut self, path: &Path, module: &[String]) {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let below = [module, std::slice::from_ref(&name)].concat();
            if path.is_dir() {
                self.directory(&path, &below);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = if ["mod", "lib"].contains(&&*name) { module } else { &below };
                self.file(&std::fs::read_to_string(&path).unwrap(), module);
            }
        }
    }

    fn file(&mut self, text: &str, module: &[String]) {
        let path = module.join("::");
        for item in syn::parse_file(text).unwrap().items {
            match item {
                Item::Struct(item) => self.add(&path, &item.ident, &item.attrs, || object(&item)),
                Item::Enum(item) => self.add(&path, &item.ident, &item.attrs, || words(&item)),
                Item::Use(item) => self.use_tree(&path, &item.tree, &mut Vec::new()),
                _ => {}
            }
        }
    }

    /// Adds a type, if serde writes it.
    fn add(&mut self, module: &str, name: &Ident, attributes: &[Attribute], shape: impl FnOnce() -> Option<Shape>) {
        if !is_written(attributes) {
            return;
        }
        if let Some(shape) = if is_text(attributes) { Some(Shape::Text) } else { shape() } {
            let key = (module.to_owned(), name.to_string());
            self.abouts.insert(key.clone(), about(attributes));
            self.shapes.insert(key, shape);
        }
    }

    fn use_tree(&mut self, module: &str, tree: &UseTree, path: &mut Vec<String>) {
        let (here, there) = match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.use_tree(module, &part.tree, path);
                path.pop();
                return;
            }
            UseTree::Group(group) => return group.items.iter().for_each(|tree| self.use_tree(module, tree, path)),
            UseTree::Name(name) => (&name.ident, &name.ident),
            UseTree::Rename(name) => (&name.rename, &name.ident),
            UseTree::Glob(_) => return,
        };
        self.uses.insert((module.to_owned(), here.to_string()), [&path[..], &[there.to_string()]].concat());
    }

    /// The type of this name.
    pub fn key(&self, module: &str, name: &str) -> Key {
        let key = (module.to_owned(), name.to_owned());
        assert!(self.shapes.contains_key(&key), "no type {name} that is written in {module}");
        key
    }

    pub fn shape(&self, key: &Key) -> &Shape {
        &self.shapes[key]
    }

    pub fn about(&self, key: &Key) -> &str {
        &self.abouts[key]
    }

    /// The type that a module means by a path, if it is one of ours.
    pub fn resolve(&self, module: &str, path: &[String]) -> Option<Key> {
        let (name, before) = path.split_last()?;
        let here = (module.to_owned(), name.clone());
        if before.is_empty() && self.shapes.contains_key(&here) {
            return Some(here);
        }
        let full = match self.uses.get(&(module.to_owned(), path[0].clone())) {
            Some(used) => [&used[..], &path[1..]].concat(),
            None => path.to_vec(),
        };
        let (name, within) = full.split_last()?;
        let within = absolute(module, within);
        // Modules re-export: the type is in this one or below it.
        let below = format!("{within}::");
        let found: Vec<&Key> =
            self.shapes.keys().filter(|(module, found)| found == name && (*module == within || module.starts_with(&below))).collect();
        match found[..] {
            [key] => Some(key.clone()),
            [] => None,
            _ => found.iter().find(|(module, _)| *module == within).map(|key| (*key).clone()),
        }
    }
}

/// A path of modules, from the crate's root.
fn absolute(module: &str, path: &[String]) -> String {
    let mut at: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    for part in path {
        match &**part {
            "crate" => at.clear(),
            "self" => {}
            "super" => drop(at.pop()),
            part => at.push(part),
        }
    }
    at.join("::")
}

/// The names of an enum's variants, as clap has them on the command line.
pub fn variants(text: &str, name: &str) -> Vec<String> {
    let items = syn::parse_file(text).unwrap().items;
    let found = items.into_iter().find_map(|item| match item {
        Item::Enum(item) if item.ident == name => Some(item),
        _ => None,
    });
    found.unwrap().variants.iter().map(|variant| kebab(&variant.ident.to_string())).collect()
}

/// A structure as an object; `None` for one that reports have no use for.
fn object(item: &syn::ItemStruct) -> Option<Shape> {
    let skipped = |field: &&syn::Field| serde(&field.attrs).iter().any(|meta| meta.path().is_ident("skip"));
    let field = |field: &syn::Field| {
        Some(Field {
            name: written(&item.attrs, &field.attrs, &field.ident.as_ref()?.to_string())?,
            about: about(&field.attrs),
            kind: Kind::Type(field.ty.clone()),
            flat: serde(&field.attrs).iter().any(|meta| meta.path().is_ident("flatten")),
        })
    };
    item.fields.iter().filter(|field| !skipped(field)).map(field).collect::<Option<_>>().map(Shape::Object)
}

/// An enumeration: words, or with a tag an object whose other fields depend on that. `None` for one that reports have no use for.
fn words(item: &syn::ItemEnum) -> Option<Shape> {
    let word = |variant: &syn::Variant| Some((written(&item.attrs, &variant.attrs, &variant.ident.to_string())?, about(&variant.attrs)));
    let words: Vec<(String, String)> = item.variants.iter().map(word).collect::<Option<_>>()?;
    if item.variants.iter().all(|variant| variant.fields.is_empty()) {
        return Some(Shape::Words(words));
    }
    let tag = serde(&item.attrs).iter().find(|meta| meta.path().is_ident("tag")).map(text)?;
    let mut fields = Vec::new();
    for (variant, (word, _)) in item.variants.iter().zip(&words) {
        for field in &variant.fields {
            let about = format!("{} Only where `{tag}` is `{word}`.", about(&field.attrs));
            let name = field.ident.as_ref()?.to_string();
            fields.push(Field { name, about, kind: Kind::Type(field.ty.clone()), flat: false });
        }
    }
    fields.insert(0, Field { name: tag, about: String::new(), kind: Kind::Words(words), flat: false });
    Some(Shape::Object(fields))
}

/// How serde writes a name; `None` where it is told to in a way that no report knows.
fn written(item: &[Attribute], own: &[Attribute], name: &str) -> Option<String> {
    let value = |attributes: &[Attribute], key: &str| serde(attributes).iter().find(|meta| meta.path().is_ident(key)).map(text);
    if let Some(name) = value(own, "rename") {
        return Some(name);
    }
    match value(item, "rename_all").as_deref() {
        Some("kebab-case") => Some(kebab(name)),
        Some("lowercase") => Some(name.to_lowercase()),
        None => Some(name.to_owned()),
        Some(_) => None,
    }
}

/// `FetchedLayer` or `fetched_layer` as `fetched-layer`.
pub fn kebab(name: &str) -> String {
    let mut kebab = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(if letter == '_' { '-' } else { letter.to_ascii_lowercase() });
    }
    kebab
}

fn is_written(attributes: &[Attribute]) -> bool {
    let derives = attributes.iter().filter(|attribute| attribute.path().is_ident("derive"));
    derives
        .flat_map(|derive| derive.parse_args_with(Punctuated::<syn::Path, Token![,]>::parse_terminated).unwrap())
        .any(|path| path.segments.last().is_some_and(|last| last.ident == "Serialize"))
}

fn is_text(attributes: &[Attribute]) -> bool {
    serde(attributes).iter().any(|meta| meta.path().is_ident("into") && text(meta) == "String")
}

fn serde(attributes: &[Attribute]) -> Vec<Meta> {
    let ours = attributes.iter().filter(|attribute| attribute.path().is_ident("serde"));
    ours.flat_map(|attribute| attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap()).collect()
}

/// What a comment says, in its first paragraph.
fn about(attributes: &[Attribute]) -> String {
    let docs = attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).map(|attribute| text(&attribute.meta));
    docs.map(|line| line.trim().to_owned()).take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The text that is the value of an attribute.
fn text(meta: &Meta) -> String {
    let Meta::NameValue(pair) = meta else { panic!("an attribute without a value") };
    match &pair.value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => text.value(),
        _ => panic!("an attribute that is no text"),
    }
}
