//! Reads the sources as the compiler does: the tree of modules, the names in scope in each, every path that the code
//! names, and the file that defines what a path leads to.
//!
//! It reads `use` trees (groups, renames, globs, `self`), paths in code, types and attributes, paths and imports inside
//! macros, paths in attributes' strings, `crate::`, `self::`, `super::` at any depth, the library's name, paths that
//! begin with an imported module, imports inside functions, inline modules, `#[path]` and re-exports. What is compiled
//! for tests alone is left out.
//!
//! It does not know types: a method that a file calls, or a field that it reads, counts only if the file also names the
//! type or the trait. It expands no macros. So these forms it can't see:
//! - a path that `macro_rules!` puts together from fragments, such as `$room::TABLE`, and a name that the body of a
//!   macro imports for whoever calls it;
//! - a macro that a file calls by its place in the text (`#[macro_use]`), not by a path;
//! - what `include!` brings, and modules and `extern crate` inside macros;
//! - a constant that a file has from a glob and names only as a pattern: that reads like a new variable.
//!
//! And one it sees, but the rule excuses: a circle between children in which a function of their common parent forwards
//! the call is a circle through the parent.

use std::collections::{BTreeMap, BTreeSet};

use modules::{attributes, for_tests, name};
use proc_macro2::Ident;
use syn::{
    Attribute, Item, Meta,
    visit::{self, Visit},
};

mod map;
mod modules;
mod tokens;

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
    /// Files that are compiled for tests alone, by every `mod` that leads to them.
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
    /// A block with what macros in this module import.
    in_macros: Option<usize>,
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
        test_lines: BTreeMap::new(),
        seen: BTreeSet::new(),
        tests: BTreeSet::new(),
        compiled: BTreeSet::new(),
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
    /// Lines of a file on which its modules for tests stand.
    test_lines: BTreeMap<String, BTreeSet<usize>>,
    seen: BTreeSet<String>,
    /// Files to which a `mod` for tests leads, and those to which one leads that is not. A file may be both.
    tests: BTreeSet<String>,
    compiled: BTreeSet<String>,
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

fn line(ident: &Ident) -> usize {
    ident.span().start().line
}

fn bare(ident: &Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_string()
}

/// What a file names.
impl Reader<'_> {
    fn mention(&mut self, line: usize, route: Route, kind: Kind) {
        self.mentions.push(Mention { module: self.module, line, route, kind });
    }
}

impl<'a> Visit<'a> for Reader<'_> {
    fn visit_item(&mut self, item: &'a Item) {
        if for_tests(attributes(item)) {
            if let Item::Mod(module) = item {
                self.read_test_module(module);
                let first = module.attrs[0].pound_token.span.start().line;
                let last = module.content.as_ref().map_or(line(&module.ident), |(b, _)| b.span.close().start().line);
                self.test_lines.entry(self.file.clone()).or_default().extend(first..=last);
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
