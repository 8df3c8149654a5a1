//! Where paths lead: names are looked up as the compiler does, through imports and re-exports, to the definition.

use std::collections::{BTreeMap, BTreeSet};

use super::{Binding, Files, Kind, Mention, Module, Reader, Route};

/// Where a path leads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    Module(usize),
    Item { module: usize, name: String, is_trait: bool },
    Foreign(String),
}

/// Where paths lead.
struct Map<'r> {
    modules: &'r [Module],
    crates: &'r BTreeMap<String, usize>,
}

/// Names that are being looked up: an import that leads to itself ends there.
type Asked = Vec<(usize, String)>;

impl Map<'_> {
    /// The module that `self` means: blocks have none of their own.
    fn own(&self, mut module: usize) -> usize {
        while self.modules[module].is_block {
            module = self.modules[module].parent.unwrap();
        }
        module
    }

    /// What `name` stands for in `module`, re-exports followed to where the item is defined; imports in macros too.
    fn look_up(&self, module: usize, name: &str, asked: &mut Asked) -> BTreeSet<Place> {
        let mut found = self.declared(module, name, asked);
        if let Some(in_macros) = self.modules[module].in_macros {
            found.extend(self.declared(in_macros, name, asked));
        }
        found
    }

    /// What `name` stands for in `module`, imports in macros aside.
    fn declared(&self, module: usize, name: &str, asked: &mut Asked) -> BTreeSet<Place> {
        let key = (module, name.to_string());
        let again = asked.contains(&key);
        asked.push(key);
        let scope = &self.modules[module];
        let mut found = BTreeSet::new();
        for binding in scope.names.get(name).into_iter().flatten() {
            match binding {
                Binding::Module(id) => found.extend([Place::Module(*id)]),
                Binding::Item { is_trait } => {
                    found.extend([Place::Item { module, name: name.to_string(), is_trait: *is_trait }]);
                }
                Binding::Import(route) if !again => found.extend(self.follow(module, route, asked)),
                Binding::Import(_) => {}
            }
        }
        if found.is_empty() && !again {
            for route in &scope.globs {
                for place in self.follow(module, route, asked) {
                    if let Place::Module(from) = place {
                        found.extend(self.look_up(from, name, asked));
                    }
                }
            }
        }
        asked.pop();
        found
    }

    /// Where a path that stands in `module` leads; nowhere if a name in it is not known.
    fn follow(&self, module: usize, route: &Route, asked: &mut Asked) -> BTreeSet<Place> {
        let Some((first, rest)) = route.segments.split_first() else { return BTreeSet::new() };
        match first.as_str() {
            _ if route.absolute => self.inward(self.outside(first), rest, asked),
            "crate" => self.inward(BTreeSet::from([Place::Module(self.modules[module].root)]), rest, asked),
            "self" | "super" => {
                let mut above = Some(self.own(module));
                let mut rest = &route.segments[..];
                while let Some(step) = rest.first().filter(|step| *step == "self" || *step == "super") {
                    rest = &rest[1..];
                    if step == "super" {
                        above = above.and_then(|above| self.modules[above].parent).map(|parent| self.own(parent));
                    }
                }
                self.inward(above.map(Place::Module).into_iter().collect(), rest, asked)
            }
            _ => {
                let mut found = BTreeSet::new();
                let mut scope = module;
                loop {
                    if let Some(in_macros) = self.modules[scope].in_macros {
                        let imported = self.declared(in_macros, first, asked);
                        found.extend(self.inward(imported, rest, asked));
                    }
                    let mut declared = self.declared(scope, first, asked);
                    if declared.is_empty() && self.modules[scope].is_block {
                        scope = self.modules[scope].parent.unwrap();
                        continue;
                    }
                    if declared.is_empty() {
                        declared = self.outside(first);
                    }
                    found.extend(self.inward(declared, rest, asked));
                    break found;
                }
            }
        }
    }

    /// Where the rest of a path leads from `places`.
    fn inward(&self, mut places: BTreeSet<Place>, rest: &[String], asked: &mut Asked) -> BTreeSet<Place> {
        for name in rest {
            let mut deeper = BTreeSet::new();
            for place in &places {
                if let Place::Module(id) = place {
                    deeper.extend(self.look_up(*id, name, asked));
                }
            }
            if deeper.is_empty() {
                // What is inside an item is defined where the item is.
                deeper = places.into_iter().filter(|place| !matches!(place, Place::Module(_))).collect();
            }
            places = deeper;
        }
        places
    }

    fn outside(&self, name: &str) -> BTreeSet<Place> {
        BTreeSet::from([match self.crates.get(name) {
            Some(root) => Place::Module(*root),
            None => Place::Foreign(name.to_string()),
        }])
    }

    /// The traits that a glob over `module` brings, which are used without being named.
    fn traits(&self, module: usize) -> BTreeSet<Place> {
        let names = self.modules[module].names.keys();
        names
            .flat_map(|name| self.look_up(module, name, &mut Vec::new()))
            .filter(|place| matches!(place, Place::Item { is_trait: true, .. }))
            .collect()
    }
}

impl Reader<'_> {
    pub(super) fn into_files(mut self, crates: &BTreeMap<String, usize>) -> Files {
        let map = Map { modules: &self.modules, crates };
        let mut files = Files {
            uses: self.sources.keys().map(|file| (file.clone(), BTreeMap::new())).collect(),
            crates: BTreeMap::new(),
            parent: BTreeMap::new(),
            lines: BTreeMap::new(),
            tests: self.tests.difference(&self.compiled).cloned().collect(),
            unresolved: Vec::new(),
        };
        for (file, text) in self.sources {
            let for_tests = self.test_lines.get(file).map_or(0, BTreeSet::len);
            files.lines.insert(file.clone(), text.lines().count() - for_tests);
        }
        for module in &self.modules {
            if let Some(parent) = module.parent.map(|parent| &self.modules[parent].file)
                && *parent != module.file
            {
                files.parent.insert(module.file.clone(), parent.clone());
            }
        }
        for Mention { module, line, route, kind } in &self.mentions {
            let from = &self.modules[*module].file;
            let mut places = map.follow(*module, route, &mut Vec::new());
            if places.is_empty() {
                self.unresolved.push(format!("src/{from}:{line}: `{}` leads nowhere", route.segments.join("::")));
            }
            if *kind == Kind::Glob {
                let modules = places.iter().filter_map(|place| match place {
                    Place::Module(id) => Some(*id),
                    _ => None,
                });
                let traits: Vec<_> = modules.flat_map(|id| map.traits(id)).collect();
                places.extend(traits);
            }
            for place in places {
                let (seen, name) = match place {
                    Place::Item { module, name, .. } if self.modules[module].file != *from => {
                        let to = self.modules[module].file.clone();
                        (files.uses.entry(from.clone()).or_default().entry(to).or_default(), name)
                    }
                    // A name alone that nothing declares may be a variable.
                    Place::Foreign(name) if *kind != Kind::Code || route.segments != [name.as_str()] => {
                        (files.crates.entry(from.clone()).or_default(), name)
                    }
                    _ => continue,
                };
                seen.entry(name).or_insert(*line);
            }
        }
        self.unresolved.sort();
        self.unresolved.dedup();
        files.unresolved = self.unresolved;
        files
    }
}
