//! What stands in the tokens of macros and attributes, whose grammar nobody knows but themselves, and in their strings.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::{Kind, Reader, Route, bare, line};

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

    /// Paths in tokens. `before` is the path that stands in front of a group in braces.
    pub(super) fn read_tokens(&mut self, tokens: TokenStream, before: &Route, in_attribute: bool) {
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
