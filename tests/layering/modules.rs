//! What a file declares: modules with their files, imports, and what is for tests alone.

use std::{collections::BTreeMap, mem};

use proc_macro2::Ident;
use syn::{Attribute, Item, Meta, UseTree, punctuated::Punctuated, visit::Visit};

use super::{Binding, Kind, Module, Reader, Route, bare, folder_of, line};

fn inside(folder: &str, path: &str) -> String {
    if folder.is_empty() { path.to_string() } else { format!("{folder}/{path}") }
}

/// Whether `meta`, what stands in a `cfg`, holds in a build that is not for tests; `None`: that depends.
fn holds(meta: &Meta) -> Option<bool> {
    let Meta::List(list) = meta else { return meta.path().is_ident("test").then_some(false) };
    let inner = list.parse_args_with(Punctuated::<Meta, syn::Token![,]>::parse_terminated).ok()?;
    let inner: Vec<_> = inner.iter().map(holds).collect();
    if list.path.is_ident("not") {
        inner.first().copied().flatten().map(|holds| !holds)
    } else if list.path.is_ident("all") {
        inner.contains(&Some(false)).then_some(false)
    } else {
        inner.iter().all(|holds| *holds == Some(false)).then_some(false)
    }
}

pub(super) fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<Meta>().is_ok_and(|meta| holds(&meta) == Some(false))
    })
}

pub(super) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The name under which a module knows the item; modules and imports aside.
pub(super) fn name(item: &Item) -> Option<&Ident> {
    match item {
        Item::Const(item) => Some(&item.ident),
        Item::Enum(item) => Some(&item.ident),
        Item::Fn(item) => Some(&item.sig.ident),
        Item::Macro(item) => item.ident.as_ref(),
        Item::Static(item) => Some(&item.ident),
        Item::Struct(item) => Some(&item.ident),
        Item::Trait(item) => Some(&item.ident),
        Item::TraitAlias(item) => Some(&item.ident),
        Item::Type(item) => Some(&item.ident),
        Item::Union(item) => Some(&item.ident),
        _ => None,
    }
}

/// What a file declares.
impl Reader<'_> {
    pub(super) fn open(&mut self, parent: Option<usize>, is_block: bool) -> usize {
        let id = self.modules.len();
        let root = parent.map_or(id, |parent| self.modules[parent].root);
        let file = self.file.clone();
        self.modules.push(Module {
            file,
            parent,
            root,
            is_block,
            names: BTreeMap::new(),
            globs: Vec::new(),
            in_macros: None,
        });
        id
    }

    pub(super) fn bind(&mut self, name: String, binding: Binding) {
        self.modules[self.module].names.entry(name).or_default().push(binding);
    }

    fn parse(&mut self, path: &str) -> syn::File {
        self.seen.insert(path.to_string());
        syn::parse_file(&self.sources[path]).unwrap_or_else(|error| panic!("src/{path}: {error}"))
    }

    /// Reads a file as a module whose children lie in `folder`.
    pub(super) fn read_file(&mut self, path: &str, parent: Option<usize>, folder: String) -> usize {
        let parsed = self.parse(path);
        let before = (self.module, mem::replace(&mut self.file, path.to_string()), self.inline);
        let outer = mem::replace(&mut self.folder, folder);
        self.module = self.open(parent, false);
        self.inline = 0;
        let module = self.module;
        if for_tests(&parsed.attrs) {
            self.read_tests(&parsed.items);
        } else {
            self.compiled.insert(path.to_string());
            self.visit_file(&parsed);
        }
        (self.module, self.file, self.inline) = before;
        self.folder = outer;
        module
    }

    /// The file that `item` declares and the folder of its children.
    fn file_of(&mut self, item: &syn::ItemMod) -> Option<(String, String)> {
        let given = item.attrs.iter().find_map(|attribute| match &attribute.meta {
            Meta::NameValue(meta) if meta.path.is_ident("path") => match &meta.value {
                syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
                _ => None,
            },
            _ => None,
        });
        let name = bare(&item.ident);
        let candidates = match given {
            Some(path) => {
                let folder = if self.inline > 0 { self.folder.clone() } else { folder_of(&self.file) };
                let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
                for part in path.split('/').filter(|part| *part != ".") {
                    match part {
                        ".." => {
                            parts.pop();
                        }
                        part => parts.push(part),
                    }
                }
                let path = parts.join("/");
                vec![(path.clone(), folder_of(&path))]
            }
            None => {
                let folder = inside(&self.folder, &name);
                vec![(format!("{folder}.rs"), folder.clone()), (format!("{folder}/mod.rs"), folder)]
            }
        };
        let found = candidates.into_iter().find(|(file, _)| self.sources.contains_key(file));
        if found.is_none() {
            self.unresolved.push(format!("src/{}:{}: `mod {name}` has no file", self.file, line(&item.ident)));
        }
        found
    }

    /// Marks the files that modules for tests have.
    fn read_tests(&mut self, items: &[Item]) {
        self.tests.insert(self.file.clone());
        for item in items {
            if let Item::Mod(item) = item {
                self.read_test_module(item);
            }
        }
    }

    pub(super) fn read_test_module(&mut self, item: &syn::ItemMod) {
        if item.content.is_some() {
            return;
        }
        let Some((file, folder)) = self.file_of(item) else { return };
        let parsed = self.parse(&file);
        let before = (mem::replace(&mut self.file, file), mem::replace(&mut self.folder, folder), self.inline);
        self.inline = 0;
        self.read_tests(&parsed.items);
        (self.file, self.folder, self.inline) = before;
    }

    pub(super) fn read_module(&mut self, item: &syn::ItemMod) {
        let name = bare(&item.ident);
        let Some((_, items)) = &item.content else {
            if let Some((file, folder)) = self.file_of(item) {
                let module = self.read_file(&file, Some(self.module), folder);
                self.bind(name, Binding::Module(module));
            }
            return;
        };
        let module = self.open(Some(self.module), false);
        self.bind(name.clone(), Binding::Module(module));
        let before = mem::replace(&mut self.module, module);
        let folder = inside(&self.folder, &name);
        let outer = mem::replace(&mut self.folder, folder);
        self.inline += 1;
        items.iter().for_each(|item| self.visit_item(item));
        self.inline -= 1;
        self.folder = outer;
        self.module = before;
    }

    pub(super) fn read_use(&mut self, tree: &UseTree, route: &Route) {
        let with = |ident: &Ident| {
            let mut route = route.clone();
            if ident != "self" || route.segments.is_empty() {
                route.segments.push(bare(ident));
            }
            route
        };
        let mut import = |ident: &Ident, known_as: Option<&Ident>| {
            let route = with(ident);
            let name = known_as.map(bare).or_else(|| route.segments.last().cloned()).unwrap_or_default();
            self.mention(line(ident), route.clone(), Kind::Import);
            self.bind(name, Binding::Import(route));
        };
        match tree {
            UseTree::Path(tree) => self.read_use(&tree.tree, &with(&tree.ident)),
            UseTree::Name(tree) => import(&tree.ident, None),
            UseTree::Rename(tree) => import(&tree.ident, Some(&tree.rename)),
            UseTree::Glob(tree) => {
                self.mention(tree.star_token.spans[0].start().line, route.clone(), Kind::Glob);
                self.modules[self.module].globs.push(route.clone());
            }
            UseTree::Group(tree) => tree.items.iter().for_each(|tree| self.read_use(tree, route)),
        }
    }
}
