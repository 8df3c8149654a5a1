//! What stands in the tokens of macros and attributes, whose grammar nobody knows but themselves, and in their strings.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{
    Token, UseTree,
    parse::{ParseStream, Parser},
};

use super::{Kind, Reader, Route, bare, line};

/// An import as it stands behind `use`, and the tokens that follow it; `None` if it is none, as in `impl Trait + use<'a>`.
fn import(tokens: &[TokenTree]) -> Option<(bool, UseTree, usize)> {
    let read = |input: ParseStream| {
        input.parse::<Token![use]>()?;
        let absolute = input.parse::<Option<Token![::]>>()?.is_some();
        let tree = input.parse::<UseTree>()?;
        Ok((absolute, tree, input.parse::<TokenStream>()?.into_iter().count()))
    };
    read.parse2(tokens.iter().cloned().collect()).ok()
}

/// The tokens with `crate` for `$crate`.
fn without_dollar_crate(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept: Vec<TokenTree> = Vec::new();
    for token in tokens {
        let is_crate = matches!(&token, TokenTree::Ident(ident) if ident == "crate");
        kept.pop_if(|last| is_crate && matches!(last, TokenTree::Punct(sign) if sign.as_char() == '$'));
        kept.push(token);
    }
    kept
}

impl Reader<'_> {
    /// A path in a string of an attribute, such as serde's `with`.
    pub(super) fn named_in_string(&mut self, text: &str, line: usize) {
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

    /// Notes an import that a macro is given. Which names it brings where is up to the macro: so they are looked up
    /// beside what the scope around the macro has, and hide nothing.
    fn read_use_in_macro(&mut self, absolute: bool, tree: &UseTree) {
        let around = self.module;
        self.module = self.modules[around].in_macros.unwrap_or_else(|| self.open(Some(around), true));
        self.modules[around].in_macros = Some(self.module);
        self.read_use(tree, &Route { absolute, segments: Vec::new() });
        self.module = around;
    }

    /// Paths and imports in tokens. `before` is the path that stands in front of a group in braces.
    pub(super) fn read_tokens(&mut self, tokens: TokenStream, before: &Route, in_attribute: bool) {
        let tokens = without_dollar_crate(tokens);
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
                    if first == "use"
                        && let Some((absolute, tree, behind)) = import(&tokens[at..])
                    {
                        self.read_use_in_macro(absolute, &tree);
                        at = tokens.len() - behind;
                        continue;
                    }
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
