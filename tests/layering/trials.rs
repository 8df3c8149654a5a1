//! The reader and the rules tried on small trees of sources.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    circles, frameworks_outside,
    reader::{Files, Sources, read},
    room, wrong_uses,
};

fn files(sources: &[(&str, &str)]) -> Files {
    let sources: Sources = sources.iter().map(|(file, text)| ((*file).to_string(), (*text).to_string())).collect();
    read(&sources, &[("beltsight", "lib.rs"), ("", "main.rs"), ("", "learn/main.rs")])
}

/// A tree that is understood to the last path.
fn understood(sources: &[(&str, &str)]) -> Files {
    let files = files(sources);
    assert!(files.unresolved.is_empty(), "{}", files.unresolved.join("\n"));
    files
}

/// What `from` uses, as `file: names`.
fn used(files: &Files, from: &str) -> Vec<String> {
    let names = |names: &BTreeMap<String, usize>| names.keys().cloned().collect::<Vec<_>>().join(" ");
    files.uses[from].iter().map(|(file, used)| format!("{file}: {}", names(used))).collect()
}

/// Five modules with an item each, which `text` in `room/user.rs` may name.
fn used_by(text: &str) -> Vec<String> {
    let files = understood(&[
        ("lib.rs", "pub mod a; pub mod b; pub mod room;"),
        ("a.rs", "pub struct A; pub fn make() -> A { A } pub const LIMIT: usize = 1;"),
        ("b/mod.rs", "pub mod deep; pub struct B; pub enum Choice { One, Two }"),
        ("b/deep.rs", "pub struct Deep; pub trait Dive { fn dive(&self) {} } pub mod inner { pub struct Inner; }"),
        ("room/mod.rs", "pub mod user; pub mod other; pub struct Parent;"),
        ("room/other.rs", "pub struct Other; pub struct Another;"),
        ("room/user.rs", text),
    ]);
    used(&files, "room/user.rs")
}

#[test]
fn every_form_of_import_is_seen() {
    assert_eq!(used_by("use crate::a::A;"), ["a.rs: A"]);
    assert_eq!(
        used_by("use crate::{a::{self, A}, b::{B, deep::{Deep, inner::Inner}}};"),
        ["a.rs: A", "b/deep.rs: Deep Inner", "b/mod.rs: B"]
    );
    assert_eq!(used_by("use {crate::a::A, crate::b::B};"), ["a.rs: A", "b/mod.rs: B"]);
    assert_eq!(used_by("pub(crate) use crate::a::A as Renamed;"), ["a.rs: A"]);
    assert_eq!(used_by("use crate::b::deep::Dive as _;"), ["b/deep.rs: Dive"]);
    assert_eq!(used_by("use super::other::Other;"), ["room/other.rs: Other"]);
    assert_eq!(
        used_by("use super::{Parent, other::{Another, Other}};"),
        ["room/mod.rs: Parent", "room/other.rs: Another Other"]
    );
    assert_eq!(used_by("use super::super::b::deep::Deep;"), ["b/deep.rs: Deep"]);
    assert_eq!(used_by("use self::super::super::a::A;"), ["a.rs: A"]);
    assert_eq!(used_by("mod x { mod y { use super::super::super::super::a::A; } }"), ["a.rs: A"]);
    assert_eq!(used_by("use crate::b::Choice::{self, One};"), ["b/mod.rs: Choice"]);
    assert_eq!(used_by("use crate::b::Choice::*;"), ["b/mod.rs: Choice"]);
}

#[test]
fn every_form_of_path_is_seen() {
    assert_eq!(used_by("fn f() { crate::a::make(); }"), ["a.rs: make"]);
    assert_eq!(used_by("fn f() -> super::super::a::A { todo!() }"), ["a.rs: A"]);
    assert_eq!(used_by("fn f(_: Vec<Option<&crate::b::B>>) {}"), ["b/mod.rs: B"]);
    assert_eq!(used_by("struct S { field: crate::b::B }"), ["b/mod.rs: B"]);
    assert_eq!(used_by("impl crate::b::deep::Dive for () {}"), ["b/deep.rs: Dive"]);
    assert_eq!(used_by("fn f() { <() as crate::b::deep::Dive>::dive(&()) }"), ["b/deep.rs: Dive"]);
    assert_eq!(used_by("fn f(c: u8) { match c { crate::a::LIMIT => {} _ => {} } }"), ["a.rs: LIMIT"]);
    assert_eq!(used_by("fn f() { crate::b::Choice::One; }"), ["b/mod.rs: Choice"]);
    assert_eq!(used_by("use crate::a; fn f() { a::make(); }"), ["a.rs: make"]);
    assert_eq!(used_by("use crate::b::deep as d; fn f(_: d::inner::Inner) {}"), ["b/deep.rs: Inner"]);
    assert_eq!(used_by("use super::other; type T = other::Other;"), ["room/other.rs: Other"]);
    assert_eq!(used_by("use super::super::b; fn f(_: b::deep::Deep) {}"), ["b/deep.rs: Deep"]);
    assert_eq!(used_by("fn f() { use crate::a; { a::make(); } }"), ["a.rs: make"]);
    assert_eq!(
        used_by("fn f() { use super::super::b::deep::inner; mod x {} let _: inner::Inner; }"),
        ["b/deep.rs: Inner"]
    );
}

#[test]
fn paths_in_macros_and_attributes_are_seen() {
    assert_eq!(used_by("fn f() { println!(\"{}\", crate::a::LIMIT); }"), ["a.rs: LIMIT"]);
    assert_eq!(used_by("use crate::a; fn f() { vec![(1, { [a::make()] })]; }"), ["a.rs: make"]);
    assert_eq!(
        used_by("fn f() { go! { use super::super::{a::{A, LIMIT}, b::B}; } }"),
        ["a.rs: A LIMIT", "b/mod.rs: B"]
    );
    assert_eq!(used_by("fn f() { go!(Vec::<crate::b::B>::new()); }"), ["b/mod.rs: B"]);
    assert_eq!(used_by("crate::a::make!();"), ["a.rs: make"]);
    assert_eq!(used_by("#[openapi(paths(super::other::Other))] struct S;"), ["room/other.rs: Other"]);
    assert_eq!(used_by("#[serde(with = \"crate::b::deep\", default = \"crate::a::make\")] struct S;"), ["a.rs: make"]);
    assert_eq!(used_by("#[serde(default = crate::a::LIMIT)] struct S;"), ["a.rs: LIMIT"]);
    assert_eq!(used_by("use super::super::a::*; fn f() { println!(\"{LIMIT:>3}\"); }"), ["a.rs: LIMIT"]);
}

#[test]
fn imports_in_macros_are_seen() {
    let limit = ["a.rs: LIMIT"];
    assert_eq!(used_by("fn f() { assert!({ use crate::a as q; q::LIMIT } > 0); }"), limit);
    assert_eq!(used_by("fn f() { assert!({ use crate::a; a::LIMIT } > 0); }"), limit);
    assert_eq!(used_by("fn f() { assert!({ use crate::a::*; LIMIT } > 0); }"), limit);
    assert_eq!(
        used_by("fn f() { println!(\"{}\", { use super::super::{a as q}; format!(\"{}\", q::LIMIT) }); }"),
        limit
    );
    assert_eq!(used_by("macro_rules! m { () => {{ use $crate::a as q; q::LIMIT }} }"), limit);
    assert_eq!(used_by("fn f() { go!(use crate::a as q => q::LIMIT); }"), limit);
    assert_eq!(used_by("fn f() { go! { fn g<'a>() -> impl Sized + use<'a> { crate::a::LIMIT } } }"), limit);
    assert_eq!(used_by("use crate::b::*; fn f() { go!({ use deep as d; d::inner::Inner }); }"), ["b/deep.rs: Inner"]);
    assert_eq!(
        used_by("fn f() { go! { pub use crate::{a::{self as q, make}, b::deep as d}; q::LIMIT; d::Deep; } }"),
        ["a.rs: LIMIT make", "b/deep.rs: Deep"]
    );
    // A trait does its work unnamed.
    assert_eq!(used_by("fn f() { go!({ use crate::b::deep::*; }); }"), ["b/deep.rs: Dive"]);
}

#[test]
fn imports_in_macros_serve_the_scope_around_and_hide_nothing() {
    assert_eq!(used_by("go! { use crate::a; } fn f() { a::make(); }"), ["a.rs: make"]);
    assert_eq!(
        used_by("go! { if #[x] { use crate::a as q; } else { use crate::b as q; } } fn f(_: q::B) { q::LIMIT; }"),
        ["a.rs: LIMIT", "b/mod.rs: B"]
    );
    assert_eq!(
        used_by("use crate::b::*; fn f() { go! { use crate::a::LIMIT as B; } } fn g(_: B) {}"),
        ["a.rs: LIMIT", "b/mod.rs: B"]
    );
    assert_eq!(
        used_by("const LIMIT: u8 = 1; fn f() { assert!({ use crate::a::*; LIMIT } > 0); } fn g() { LIMIT; }"),
        ["a.rs: LIMIT"]
    );
    assert_eq!(used_by("fn f() { go! { use a as a; use a::b; } a::make(); }"), [""; 0]);
}

#[test]
fn a_glob_counts_for_the_names_that_are_used() {
    assert_eq!(
        used_by("use super::*; use super::super::b::*; fn f(_: Parent, _: deep::Deep) {}"),
        ["b/deep.rs: Deep", "room/mod.rs: Parent"]
    );
    assert_eq!(used_by("use super::other::*; fn f() { let _ = Another; }"), ["room/other.rs: Another"]);
    // A trait does its work unnamed.
    assert_eq!(used_by("use crate::b::deep::*;"), ["b/deep.rs: Dive"]);
}

#[test]
fn a_name_of_the_file_itself_hides_that_of_a_glob() {
    assert_eq!(used_by("use crate::b::*; struct B; fn f(_: B) {}"), [""; 0]);
    // The one inside a function hides it there alone.
    assert_eq!(used_by("use crate::b::*; fn f() { struct B; } fn g(_: B) {}"), ["b/mod.rs: B"]);
}

#[test]
fn what_is_not_named_is_not_used() {
    let nothing = [""; 0];
    assert_eq!(used_by("use crate::a::*; fn f() { go!(it.make(), Vec::<u8>::make()); }"), nothing);
    assert_eq!(used_by("/// crate::a::A\nfn f() {}"), nothing);
    assert_eq!(
        used_by("use std::fmt; fn make() {} fn f(a: A, b: &str) { make(); a.make(); b.len(); } struct A;"),
        nothing
    );
    assert_eq!(used_by("//! See [`crate::a::A`].\n/// Like [`super::Parent`].\nfn f() {}"), nothing);
    assert_eq!(used_by("pub(in crate::room) fn f() {} pub(super) fn g() {}"), nothing);
    assert_eq!(used_by("fn f() { \"crate::a::A\".len(); }"), nothing);
}

#[test]
fn re_exports_are_followed_to_the_file_that_defines() {
    let files = understood(&[
        ("lib.rs", "pub mod house; pub mod user; pub mod globber;"),
        (
            "house/mod.rs",
            "mod cellar; mod strong; pub use self::cellar::{Wine as Drink, glass::*}; pub use strong::{strong, Arm};",
        ),
        ("house/cellar/mod.rs", "pub mod glass; pub struct Wine;"),
        ("house/cellar/glass.rs", "pub struct Glass; pub use super::super::strong::Arm as Handle;"),
        ("house/strong.rs", "pub fn strong() {} pub struct Arm;"),
        ("user.rs", "use crate::house::{self, Drink, Glass}; fn f(_: house::Handle) { house::strong() }"),
        ("globber.rs", "use crate::house::*; fn f(_: Drink, _: Glass) { strong(); }"),
    ]);
    let expected = ["house/cellar/glass.rs: Glass", "house/cellar/mod.rs: Wine", "house/strong.rs: Arm strong"];
    assert_eq!(used(&files, "user.rs"), expected);
    assert_eq!(used(&files, "globber.rs"), [expected[0], expected[1], "house/strong.rs: strong"]);
    assert_eq!(used(&files, "house/mod.rs"), ["house/cellar/mod.rs: Wine", "house/strong.rs: Arm strong"]);
}

#[test]
fn programs_use_the_library_by_its_name() {
    let files = understood(&[
        ("lib.rs", "pub mod student;"),
        ("student/mod.rs", "pub mod engine;"),
        ("student/engine.rs", "pub struct Engine;"),
        ("main.rs", "use beltsight::student; fn main() { let _: student::engine::Engine; }"),
        ("learn/main.rs", "mod student; mod fit;"),
        ("learn/student.rs", "pub struct Own;"),
        (
            "learn/fit.rs",
            "use beltsight::student::engine::Engine; use crate::student::Own; fn f() -> ::beltsight::student::engine::Engine {}",
        ),
    ]);
    assert_eq!(used(&files, "main.rs"), ["student/engine.rs: Engine"]);
    assert_eq!(used(&files, "learn/fit.rs"), ["learn/student.rs: Own", "student/engine.rs: Engine"]);
}

#[test]
fn modules_are_found_in_their_files() {
    let files = understood(&[
        (
            "lib.rs",
            "mod a { pub mod b; #[path = \"else/where.rs\"] pub mod c; } #[path = \"odd.rs\"] mod d; mod e; mod r#type;",
        ),
        ("a/b.rs", "pub struct B;"),
        ("a/else/where.rs", "pub mod beside; pub struct C;"),
        ("a/else/beside.rs", "pub struct Beside;"),
        ("odd.rs", "pub struct D;"),
        ("type.rs", "pub struct T; #[path = \"./type/../g.rs\"] mod g; use g::G;"),
        ("g.rs", "pub struct G;"),
        ("e.rs", "mod f; use crate::{a::{b::B, c::{C, beside::Beside}}, d::D}; use f::F; fn f(_: crate::r#type::T) {}"),
        ("e/f.rs", "pub struct F;"),
    ]);
    assert_eq!(
        used(&files, "e.rs"),
        ["a/b.rs: B", "a/else/beside.rs: Beside", "a/else/where.rs: C", "e/f.rs: F", "odd.rs: D", "type.rs: T"]
    );
}

#[test]
fn what_is_compiled_for_tests_alone_does_not_count() {
    let files = understood(&[
        ("lib.rs", "mod a; mod b; #[cfg(test)] mod testing;"),
        ("a.rs", "pub struct A; pub struct Kept;"),
        (
            "b.rs",
            "#[cfg(test)] use crate::a::A;
             #[cfg(all(test, feature = \"x\"))] fn f(_: crate::a::A) {}
             #[cfg(not(test))] use crate::a::Kept;
             struct S { #[cfg(test)] field: crate::a::A }
             impl S { #[cfg(any(test))] fn g(_: crate::a::A) {} }
             fn i(c: u8) { match c { #[cfg(test)] crate::a::A => {} _ => {} } }
             enum E { #[cfg(test)] V(crate::a::A) }
             fn h() { #[cfg(test)] let _ = crate::a::A; #[cfg(test)] { crate::a::A; } }

             #[cfg(test)]
             mod more { use crate::a::A; }

             #[cfg(test)]
             mod tests;",
        ),
        ("b/tests.rs", "mod deeper; use crate::a::A;"),
        ("b/tests/deeper.rs", "use crate::a::A;"),
        ("testing.rs", "pub fn f(_: crate::a::A) {}"),
    ]);
    assert_eq!(used(&files, "b.rs"), ["a.rs: Kept"]);
    assert!(used(&files, "b/tests.rs").is_empty() && used(&files, "testing.rs").is_empty());
    assert_eq!(files.tests, ["b/tests.rs", "b/tests/deeper.rs", "testing.rs"].map(String::from).into());
    assert_eq!(files.lines["b.rs"], 10);
}

#[test]
fn a_file_is_for_tests_only_if_every_mod_that_leads_to_it_is() {
    for text in [
        "mod long; #[cfg(test)] #[path = \"long.rs\"] mod again; #[cfg(test)] mod tests;",
        "#[cfg(test)] #[path = \"long.rs\"] mod again; mod long; #[cfg(test)] mod tests;",
    ] {
        let long = "struct A;\nstruct B;\n#[cfg(test)]\nmod tests { }\n";
        let files = understood(&[("lib.rs", text), ("long.rs", long), ("tests.rs", "#[path = \"long.rs\"] mod more;")]);
        assert_eq!(files.tests, ["tests.rs".to_string()].into());
        assert_eq!(files.lines["long.rs"], 2);
    }
    // Whoever reads a file twice counts its tests once.
    let files = understood(&[
        ("lib.rs", "mod a;"),
        ("main.rs", "mod a;"),
        ("a.rs", "struct A;\nstruct B;\n#[cfg(test)]\nmod tests { }\n"),
    ]);
    assert_eq!(files.lines["a.rs"], 2);
}

#[test]
fn what_is_not_understood_is_said() {
    let files = files(&[
        ("lib.rs", "mod a; mod gone;"),
        ("a.rs", "use crate::nowhere::X;\nfn f() { self::g(); super::super::h(); }"),
        ("lost.rs", ""),
    ]);
    assert_eq!(
        files.unresolved,
        [
            "no `mod` leads to src/lost.rs",
            "src/a.rs:1: `crate::nowhere::X` leads nowhere",
            "src/a.rs:2: `self::g` leads nowhere",
            "src/a.rs:2: `super::super::h` leads nowhere",
            "src/lib.rs:1: `mod gone` has no file",
        ]
    );
}

fn set<'a>(files: &[&'a str]) -> BTreeSet<&'a str> {
    files.iter().copied().collect()
}

#[test]
fn a_circle_through_super_super_is_found() {
    let with = |plan: &str| {
        let files = understood(&[
            ("lib.rs", "mod line;"),
            ("line/mod.rs", "mod eject; mod infer;"),
            ("line/eject/mod.rs", "pub mod plan; pub use plan::Plan;"),
            ("line/eject/plan.rs", plan),
            ("line/infer.rs", "use super::eject::Plan; pub struct Infer;"),
        ]);
        circles(&files)
            .into_iter()
            .map(|circle| circle.into_iter().map(String::from).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    assert!(with("pub struct Plan;").is_empty());
    assert_eq!(
        with("pub struct Plan; fn f() { super::super::infer::Infer; }"),
        [["line/eject/plan.rs", "line/infer.rs"]]
    );
}

#[test]
fn parents_and_children_may_share() {
    let tree = |children: [&str; 2], outside: &str| {
        [
            ("lib.rs", "mod room; mod outside;".to_string()),
            ("room/mod.rs", "mod a; mod b; pub struct Shared; struct S(a::A, b::B, crate::outside::Out);".to_string()),
            ("room/a.rs", format!("use super::Shared; pub struct A; {}", children[0])),
            ("room/b.rs", format!("use super::Shared; pub struct B; {}", children[1])),
            ("outside.rs", format!("pub struct Out; {outside}")),
        ]
    };
    let found = |children, outside| {
        let tree = tree(children, outside);
        let files = understood(&tree.each_ref().map(|(file, text)| (*file, text.as_str())));
        circles(&files).into_iter().flatten().map(String::from).collect::<BTreeSet<_>>()
    };
    let set = |files: &[&str]| files.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(found(["", ""], ""), set(&[]));
    // One child uses the other: still a folder and its shelf.
    assert_eq!(found(["use super::b::B;", ""], ""), set(&[]));
    assert_eq!(found(["use super::b::B;", "use super::a::A;"], ""), set(&["room/a.rs", "room/b.rs"]));
    // Somebody from outside has no part in it.
    assert_eq!(
        found(["", ""], "use crate::room::Shared;"),
        set(&["outside.rs", "room/a.rs", "room/b.rs", "room/mod.rs"])
    );
}

#[test]
fn circles_of_the_same_folder_are_told_apart() {
    let files = understood(&[
        ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
        ("a.rs", "pub struct A; use crate::b::B;"),
        ("b.rs", "pub struct B; use crate::a::A; use crate::c::C;"),
        ("c.rs", "pub struct C; use crate::d::D;"),
        ("d.rs", "pub struct D; use crate::e::E;"),
        ("e.rs", "pub struct E; use crate::c::C;"),
    ]);
    assert_eq!(circles(&files), [set(&["a.rs", "b.rs"]), set(&["c.rs", "d.rs", "e.rs"])].into());
}

#[test]
fn a_file_belongs_to_the_longest_path_that_leads_to_it() {
    let rooms = ["line", "line/eject/output", "config"];
    let room_of = |file| room(&rooms, file).map(|room| rooms[room]);
    assert_eq!(room_of("line/mod.rs"), Some("line"));
    assert_eq!(room_of("line/eject/plan.rs"), Some("line"));
    assert_eq!(room_of("line/eject/output/mqtt.rs"), Some("line/eject/output"));
    assert_eq!(room_of("line/eject/output.rs"), Some("line/eject/output"));
    assert_eq!(room_of("config.rs"), Some("config"));
    assert_eq!(room_of("lineage.rs"), None);
    assert_eq!(room_of("store/line.rs"), None);
}

#[test]
fn a_use_of_a_room_above_is_found() {
    let files = understood(&[
        ("lib.rs", "mod line; mod store; mod domain; pub struct Root;"),
        ("main.rs", "use beltsight::domain::Verdict;"),
        ("line/mod.rs", "pub mod eject; use crate::store::Store;"),
        ("line/eject/mod.rs", "pub mod output; pub struct Plan;"),
        ("line/eject/output/mod.rs", "use super::Plan; use crate::domain::Verdict;"),
        ("store.rs", "pub struct Store;\nfn f(_: crate::domain::Verdict) { super::line::eject::Plan; }"),
        ("domain.rs", "pub struct Verdict; use crate::Root;"),
    ]);
    let rooms = ["line", "store", "line/eject/output", "domain"];
    let wrong = [
        "src/domain.rs:1 → src/lib.rs: Root (room domain may not use lib.rs)",
        "src/line/eject/output/mod.rs:1 → src/line/eject/mod.rs: Plan (room line/eject/output may not use room line)",
        "src/store.rs:2 → src/line/eject/mod.rs: Plan (room store may not use room line)",
    ];
    assert_eq!(wrong_uses(&files, &rooms, &[]), wrong);
    let exceptions = [("store", "line/eject", "…"), ("line", "store", "…")];
    assert_eq!(
        wrong_uses(&files, &rooms, &exceptions),
        [wrong[0], wrong[1], "nothing needs this exception, strike it: (\"line\", \"store\", \"…\")"]
    );
}

#[test]
fn a_framework_outside_its_room_is_found() {
    let files = understood(&[
        ("lib.rs", "mod api; mod a; mod b; mod c; mod d; mod e; mod f; mod g; mod h; mod axum_free;"),
        ("api.rs", "use axum; pub use axum::Router;"),
        ("a.rs", "use axum as web;\nfn f() { web::get(); }"),
        ("b.rs", "\nfn f() { go!(::axum::get()); }"),
        ("c.rs", "fn f(_: crate::api::Router) {}"),
        ("d.rs", "#[axum::debug]\nfn f() {}"),
        ("e.rs", "mod axum {}\nfn f() { ::axum::get(); }"),
        ("f.rs", "mod axum {}\nfn f() { go!(::axum::get()); }"),
        ("g.rs", "fn f() { assert!({ use axum; axum::get() }); }"),
        ("h.rs", "\nfn f() { go! { use axum::get as got; } }"),
        (
            "axum_free.rs",
            "mod axum { pub fn get() {} } fn f(axum: u8, hyper: u8) { axum::get(); hyper.get(); let _ = hyper; }",
        ),
    ]);
    assert_eq!(
        frameworks_outside(&files, &[("axum", &["api"]), ("hyper", &["api"])]),
        [
            "src/a.rs:1 uses axum",
            "src/b.rs:2 uses axum",
            "src/c.rs:1 uses axum",
            "src/d.rs:1 uses axum",
            "src/e.rs:2 uses axum",
            "src/f.rs:2 uses axum",
            "src/g.rs:1 uses axum",
            "src/h.rs:2 uses axum",
            "src/api does not use hyper, strike it",
        ]
    );
}
