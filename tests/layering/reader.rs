//! Reads the sources as the compiler does: the tree of modules, the names in scope in each, every path that the code
//! names, and the file that defines what a path leads to.
//!
//! It reads `use` trees (groups, renames, globs, `self`), paths in code, types and attributes, paths inside macros and
//! inside attributes' strings, `crate::`, `self::`, `super::` at any depth, the library's name, paths that begin with
//! an imported module, imports inside functions, inline modules, `#[path]` and re-exports. What is compiled for tests
//! alone is left out.
//!
//! It does not know types. A method that a file calls, or a field that it reads, counts only if the file also names the
//! type or the trait.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use syn::{
    Attribute, Item, Meta, UseTree,
    punctuated::Punctuated,
    visit::{self, Visit},
};

mod map;

/// Path below `src` → what stands in the file.
pub type Sources = BTreeMap<String, String>;

/// What the sources of a package say about its files. Files are named by their paths below `src`.
pub struct Files {
    /// `uses[a][b]`: the names defined in `b` that `a` uses, and the first line on which it does.
    pub uses: BTreeMap<String, BTreeMap<String, BTreeMap<String, usize>>>,
    /// Crates of others that a file names, and the first line on which it does.
    pub crates: BTreeMap<String, BTreeMap<String, usize>>,
    /// The file whose module is the parent of a file's.
    pub parent: BTreeMap<String, String>,
    /// Lines of a file; its modules for tests do not count.
    pub lines: BTreeMap<String, usize>,
    /// Files that are compiled for tests alone.
    pub tests: BTreeSet<String>,
    /// What could not be read: a `mod` without a file, a file without a `mod`, a path that leads nowhere.
    pub unresolved: Vec<String>,
}

/// A path as it is written.
#[derive(Clone)]
struct Route {
    /// It begins with `::`.
    absolute: bool,
    segments: Vec<String>,
}

/// What a name in a module stands for.
enum Binding {
    Module(usize),
    Item { is_trait: bool },
    Import(Route),
}

/// A module, or a block of code with items of its own.
struct Module {
    file: String,
    parent: Option<usize>,
    /// The root of its crate.
    root: usize,
    is_block: bool,
    names: BTreeMap<String, Vec<Binding>>,
    globs: Vec<Route>,
}

/// A path that the code names.
struct Mention {
    module: usize,
    line: usize,
    route: Route,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Import,
    Glob,
    Code,
}

/// Reads the crates of a package. `roots` are the names by which other crates call them, empty if none does, and the
/// paths of their root files below `src`. A root that is not among the sources is passed over.
pub fn read(sources: &Sources, roots: &[(&str, &str)]) -> Files {
    let mut reader = Reader {
        sources,
        modules: Vec::new(),
        mentions: Vec::new(),
        lines: sources.iter().map(|(file, text)| (file.clone(), text.lines().count())).collect(),
        seen: BTreeSet::new(),
        tests: BTreeSet::new(),
        unresolved: Vec::new(),
        module: 0,
        file: String::new(),
        folder: String::new(),
        inline: 0,
    };
    let mut crates = BTreeMap::new();
    for (name, root) in roots.iter().filter(|(_, root)| sources.contains_key(*root)) {
        crates.insert((*name).to_string(), reader.modules.len());
        reader.read_file(root, None, folder_of(root));
    }
    for file in sources.keys().filter(|file| !reader.seen.contains(*file)) {
        reader.unresolved.push(format!("no `mod` leads to src/{file}"));
    }
    reader.into_files(&crates)
}

struct Reader<'s> {
    sources: &'s Sources,
    modules: Vec<Module>,
    mentions: Vec<Mention>,
    lines: BTreeMap<String, usize>,
    seen: BTreeSet<String>,
    tests: BTreeSet<String>,
    unresolved: Vec<String>,
    /// Where the reader stands: module, file, the folder of the module's children, inline modules around it.
    module: usize,
    file: String,
    folder: String,
    inline: usize,
}

fn folder_of(file: &str) -> String {
    file.rsplit_once('/').map_or("", |(folder, _)| folder).to_string()
}

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

fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<Meta>().is_ok_and(|meta| holds(&meta) == Some(false))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
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
fn name(item: &Item) -> Option<&Ident> {
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

fn line(ident: &Ident) -> usize {
    ident.span().start().line
}

fn bare(ident: &Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_string()
}

/// What a file declares.
impl Reader<'_> {
    fn open(&mut self, parent: Option<usize>, is_block: bool) -> usize {
        let id = self.modules.len();
        let root = parent.map_or(id, |parent| self.modules[parent].root);
        let file = self.file.clone();
        self.modules.push(Module { file, parent, root, is_block, names: BTreeMap::new(), globs: Vec::new() });
        id
    }

    fn bind(&mut self, name: String, binding: Binding) {
        self.modules[self.module].names.entry(name).or_default().push(binding);
    }

    fn parse(&mut self, path: &str) -> syn::File {
        self.seen.insert(path.to_string());
        syn::parse_file(&self.sources[path]).unwrap_or_else(|error| panic!("src/{path}: {error}"))
    }

    /// Reads a file as a module whose children lie in `folder`.
    fn read_file(&mut self, path: &str, parent: Option<usize>, folder: String) -> usize {
        let parsed = self.parse(path);
        let before = (self.module, mem::replace(&mut self.file, path.to_string()), self.inline);
        let outer = mem::replace(&mut self.folder, folder);
        self.module = self.open(parent, false);
        self.inline = 0;
        let module = self.module;
        if for_tests(&parsed.attrs) {
            self.read_tests(&parsed.items);
        } else {
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

    fn read_test_module(&mut self, item: &syn::ItemMod) {
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

    fn read_module(&mut self, item: &syn::ItemMod) {
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

    fn read_use(&mut self, tree: &UseTree, route: &Route) {
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

/// What a file names.
impl Reader<'_> {
    fn mention(&mut self, line: usize, route: Route, kind: Kind) {
        self.mentions.push(Mention { module: self.module, line, route, kind });
    }

    /// A path in a string of an attribute, such as serde's `with`.
    fn named_in_string(&mut self, text: &str, line: usize) {
        if let Ok(path) = syn::parse_str::<syn::Path>(text) {
            let segments = path.segments.iter().map(|segment| bare(&segment.ident)).collect();
            self.mention(line, Route { absolute: path.leading_colon.is_some(), segments }, Kind::Code);
        }
    }

    /// What a format string captures.
    fn captured(&mut self, text: &str, line: usize) {
        for part in text.split('{').skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.starts_with(|c: char| !c.is_numeric()) {
                self.mention(line, Route { absolute: false, segments: vec![name] }, Kind::Code);
            }
        }
    }

    /// Paths in the tokens of a macro or an attribute, whose grammar nobody knows but itself. `before` is the path that
    /// stands in front of a group in braces.
    fn read_tokens(&mut self, tokens: TokenStream, before: &Route, in_attribute: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let punct = |at: usize, sign: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == sign);
        let colons = |at: usize| punct(at, ':') && punct(at + 1, ':');
        let nothing = Route { absolute: false, segments: Vec::new() };
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.read_tokens(group.stream(), &nothing, in_attribute),
                TokenTree::Literal(literal) => {
                    if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
                        let line = literal.span().start().line;
                        if in_attribute {
                            self.named_in_string(&text.value(), line);
                        } else {
                            self.captured(&text.value(), line);
                        }
                    }
                }
                TokenTree::Ident(first) => {
                    let after_colons = at >= 2 && colons(at - 2);
                    let of_a_value = at >= 1 && punct(at - 1, '.') && !(at >= 2 && punct(at - 2, '.'));
                    let mut route = before.clone();
                    route.absolute |= after_colons;
                    route.segments.push(bare(first));
                    while colons(at + 1)
                        && let Some(TokenTree::Ident(next)) = tokens.get(at + 3)
                    {
                        route.segments.push(bare(next));
                        at += 3;
                    }
                    match tokens.get(at + 3) {
                        _ if of_a_value => {}
                        Some(TokenTree::Group(group)) if colons(at + 1) && group.delimiter() == Delimiter::Brace => {
                            self.read_tokens(group.stream(), &route, in_attribute);
                            at += 3;
                        }
                        _ => self.mention(line(first), route, Kind::Code),
                    }
                }
                TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }
}

impl<'a> Visit<'a> for Reader<'_> {
    fn visit_item(&mut self, item: &'a Item) {
        if for_tests(attributes(item)) {
            if let Item::Mod(module) = item {
                self.read_test_module(module);
                let first = module.attrs[0].pound_token.span.start().line;
                let last = module.content.as_ref().map_or(line(&module.ident), |(b, _)| b.span.close().start().line);
                *self.lines.get_mut(&self.file).unwrap() -= last + 1 - first;
            }
            return;
        }
        if let Some(name) = name(item) {
            self.bind(bare(name), Binding::Item { is_trait: matches!(item, Item::Trait(_)) });
        }
        match item {
            Item::Mod(module) => {
                module.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
                self.read_module(module);
            }
            Item::Use(item) => {
                let start = Route { absolute: item.leading_colon.is_some(), segments: Vec::new() };
                self.read_use(&item.tree, &start);
            }
            Item::ExternCrate(item) => {
                let own = item.ident == "self";
                let start = if own { "crate".to_string() } else { bare(&item.ident) };
                let route = Route { absolute: !own, segments: vec![start] };
                let name = item.rename.as_ref().map_or(&item.ident, |(_, rename)| rename);
                self.mention(line(&item.ident), route.clone(), Kind::Import);
                self.bind(bare(name), Binding::Import(route));
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_block(&mut self, block: &'a syn::Block) {
        let before = self.module;
        if block.stmts.iter().any(|statement| matches!(statement, syn::Stmt::Item(_))) {
            self.module = self.open(Some(before), true);
        }
        visit::visit_block(self, block);
        self.module = before;
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments = path.segments.iter().map(|segment| bare(&segment.ident)).collect();
        let at = path.segments.first().map_or(0, |first| line(&first.ident));
        self.mention(at, Route { absolute: path.leading_colon.is_some(), segments }, Kind::Code);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'a syn::Macro) {
        visit::visit_macro(self, called);
        self.read_tokens(called.tokens.clone(), &Route { absolute: false, segments: Vec::new() }, false);
    }

    fn visit_attribute(&mut self, attribute: &'a Attribute) {
        if attribute.path().is_ident("doc") || attribute.path().is_ident("path") {
            return;
        }
        visit::visit_attribute(self, attribute);
        match &attribute.meta {
            Meta::List(list) => {
                self.read_tokens(list.tokens.clone(), &Route { absolute: false, segments: Vec::new() }, true);
            }
            Meta::NameValue(syn::MetaNameValue {
                value: syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }),
                ..
            }) => self.named_in_string(&text.value(), text.span().start().line),
            _ => {}
        }
    }

    fn visit_impl_item(&mut self, item: &'a syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Const(item) => &item.attrs,
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            _ => return visit::visit_impl_item(self, item),
        };
        if !for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        if !for_tests(&item.attrs) {
            visit::visit_trait_item_fn(self, item);
        }
    }

    fn visit_field(&mut self, field: &'a syn::Field) {
        if !for_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_field_value(&mut self, field: &'a syn::FieldValue) {
        if !for_tests(&field.attrs) {
            visit::visit_field_value(self, field);
        }
    }

    fn visit_variant(&mut self, variant: &'a syn::Variant) {
        if !for_tests(&variant.attrs) {
            visit::visit_variant(self, variant);
        }
    }

    fn visit_arm(&mut self, arm: &'a syn::Arm) {
        if !for_tests(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_local(&mut self, local: &'a syn::Local) {
        if !for_tests(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_expr_block(&mut self, block: &'a syn::ExprBlock) {
        if !for_tests(&block.attrs) {
            visit::visit_expr_block(self, block);
        }
    }
}
