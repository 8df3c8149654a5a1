//! What every page shares: its look, its sections, escaped text.

use anyhow::anyhow;

/// The look of every page that this program writes.
pub const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; color: #1d2733; background: #f5f7f9;
  margin: 0; }
main { max-width: 1040px; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 0 0 .8rem; }
.quiet { color: #64707d; margin: 0 0 1.2rem; } code { font-size: .85rem; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid #e1e6eb; border-radius: 10px; padding: 1.2rem; margin: 1rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; }
.card { background: #fff; border: 1px solid #e1e6eb; border-radius: 10px; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; } .card span { color: #64707d; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 1rem; }
svg { max-width: 100%; height: auto; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .3rem .6rem; text-align: right; font-weight: normal; }
th { color: #64707d; } th:first-child, table.plain td { text-align: left; }
table.confusion td { min-width: 2.2rem; text-align: center; border: 1px solid #fff; }
table.confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 1rem; }
figure { margin: 0; font-size: .8rem; } figure img { width: 100%; border-radius: 6px; display: block; }
figcaption { margin-top: .3rem; overflow-wrap: anywhere; } .wrong { color: #b3261e; } .right { color: #1b6e3c; }
pre { overflow-x: auto; font-size: .8rem; margin: 0; }";

/// Adds a titled section; `body` is HTML.
pub fn section(page: &mut String, title: &str, body: &str) {
    *page += &format!("<section><h2>{title}</h2>{body}</section>");
}

/// Text → HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Why a plot can't be drawn.
pub fn plot_error(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a plot can't be drawn: {error}")
}
