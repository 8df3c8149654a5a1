//! A lot as a page to print: self-contained, no script, nothing loaded from elsewhere.
//!
//! Invariant: everything that people typed is escaped; what is missing is said, not left out.

use std::fmt::Write;

use time::{OffsetDateTime, UtcOffset};

use super::{LISTED, LotReport};
use crate::{
    domain::{Action, Verdict},
    store::{Challenge, CorrectiveAction, Lot, LotVerification},
};

/// How the page about a lot begins: what can be sent before it is verified.
pub fn opening(lot: &Lot) -> String {
    let (name, style) = (escape(&lot.name), include_str!("page.css"));
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Lot {name}</title>\n<style>{style}</style>\n"
    )
}

/// The page about a lot, from its [`opening`] on. `verified`: what verifying the parts of the record that hold it found.
pub fn page(report: &LotReport, taken_off: &[Verdict], verified: &LotVerification) -> String {
    let mut html = opening(&report.lot);
    // Writing into a string cannot fail.
    let _ = write(&mut html, report, taken_off, verified);
    html
}

fn write(html: &mut String, report: &LotReport, taken_off: &[Verdict], verified: &LotVerification) -> std::fmt::Result {
    let lot = &report.lot;
    let name = escape(&lot.name);
    let (class, stamp) = match (&lot.closed, lot.signed_off.first()) {
        (None, _) => ("open", "Lot is open<br>preliminary".to_string()),
        (Some(_), None) if !lot.withdrawn.is_empty() => ("open", "Not signed off<br>sign-off withdrawn".to_string()),
        (Some(_), None) => ("open", "Not signed off".to_string()),
        (Some(_), Some(by)) => ("good", format!("Signed off<br>{}<br>{}", escape(&by.name), moment(by.time))),
    };
    writeln!(html, "<header><div><p class=kicker>Inspection record</p><h1>Lot {name}</h1>")?;
    writeln!(html, "<p class=muted>No. {}: opened {}{}", lot.lot, moment(lot.opened), by(&lot.opened_by))?;
    match lot.closed {
        Some(closed) => writeln!(html, "<br>closed {}{}</p>", moment(closed), by(&lot.closed_by))?,
        None => writeln!(html, "<br>not closed yet</p>")?,
    }
    writeln!(html, "</div><div class=\"stamp {class}\">{stamp}</div></header>")?;

    if !verified.findings.is_empty() {
        writeln!(html, "<p class=bad><b>The record that this page was read from is BROKEN; see its end.</b></p>")?;
    }
    if let Some(removed) = &report.removed {
        writeln!(
            html,
            "<p class=bad><b>{} verdicts that were recorded while this lot was open were removed by retention (before \
             {}).</b> All counts and lists below are of what is left; the lot's CSV names each that is gone.</p>",
            removed.verdicts,
            moment(removed.before)
        )?;
    }
    let counts = report.counts;
    let share = |n: u64| if counts.verdicts == 0 { 0.0 } else { 100.0 * n as f64 / counts.verdicts as f64 };
    writeln!(html, "<div class=tiles>")?;
    writeln!(html, "<div class=tile><b>{}</b>items judged</div>", counts.verdicts)?;
    for (n, what) in
        [(counts.accept, "accepted"), (counts.reject, "rejected"), (counts.divert, "diverted for a person")]
    {
        writeln!(html, "<div class=tile><b>{n}</b>{what}, {:.1} %</div>", share(n))?;
    }
    writeln!(html, "</div>")?;
    if report.not_recorded > 0 {
        writeln!(
            html,
            "<p class=bad><b>{} more items were judged, but could not be recorded.</b></p>",
            report.not_recorded
        )?;
    }
    if report.eject_late + report.rejects_missed > 0 {
        writeln!(
            html,
            "<p class=bad><b>{} commands to the gates were late, and {} items that should have left the belt were not \
             seen to.</b> The lot's CSV names each.</p>",
            report.eject_late, report.rejects_missed
        )?;
    }
    told_later(html, report)?;
    classes(html, report)?;
    models(html, report)?;
    outages(html, report)?;
    challenges(html, &report.challenges)?;
    actions(html, &report.corrective_actions)?;
    items(html, report, taken_off)?;
    sign_off(html, report)?;
    chain(html, report, verified)?;
    let now = moment(OffsetDateTime::now_utc());
    writeln!(
        html,
        "<footer>Written {now} by beltsight {}. All times are UTC. This page helps keep records; by itself it does not \
         fulfil any regulation.</footer></html>",
        env!("CARGO_PKG_VERSION")
    )
}

fn told_later(html: &mut String, report: &LotReport) -> std::fmt::Result {
    if report.told_later.is_empty() {
        return Ok(());
    }
    writeln!(html, "<h2 class=bad>Told later</h2>")?;
    writeln!(html, "<p>These happened in this lot and were told after it was closed. They count above.</p>")?;
    table(html, &["time", "#entry", "what"])?;
    for one in &report.told_later {
        writeln!(
            html,
            "<tr><td class=time>{}<td class=n>{}<td>{} <b class=bad>(told later)</b>",
            moment(one.time),
            one.entry,
            escape(&one.what)
        )?;
    }
    writeln!(html, "</table>")
}

fn classes(html: &mut String, report: &LotReport) -> std::fmt::Result {
    writeln!(html, "<h2>Items by class</h2>")?;
    if report.tallies.is_empty() {
        return writeln!(html, "<p class=muted>None.</p>");
    }
    let mut names: Vec<Option<&str>> = report.tallies.iter().map(|t| t.class.as_deref()).collect();
    names.sort();
    names.dedup();
    table(html, &["most probable class", "#accepted", "#rejected", "#diverted", "#all"])?;
    for name in names {
        let of = |action: Action| -> i64 {
            let alike = report.tallies.iter().filter(|t| t.class.as_deref() == name && t.action == action);
            alike.map(|t| t.verdicts).sum()
        };
        let [accept, reject, divert] = [Action::Accept, Action::Reject, Action::Divert].map(of);
        let shown = name.map_or("<i>none: no scores (fault)</i>".into(), escape);
        write!(html, "<tr><td>{shown}")?;
        for n in [accept, reject, divert, accept + reject + divert] {
            write!(html, "<td class=n>{n}")?;
        }
        writeln!(html)?;
    }
    writeln!(html, "</table>")
}

fn models(html: &mut String, report: &LotReport) -> std::fmt::Result {
    writeln!(html, "<h2>Models and thresholds</h2>")?;
    if report.models.is_empty() {
        return writeln!(html, "<p class=muted>No model judged in this lot.</p>");
    }
    table(
        html,
        &["model @ file hash", "thresholds", "accepts", "#accept from", "#unsure from", "#temperature", "#items"],
    )?;
    for m in &report.models {
        let t = &m.thresholds;
        writeln!(
            html,
            "<tr><td><code>{}</code><td><code>{}</code><td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}",
            escape(&m.model),
            escape(&m.thresholds_hash),
            escape(&t.accept.join(", ")),
            t.accept_from,
            t.unsure_from,
            t.temperature,
            m.verdicts
        )?;
    }
    writeln!(html, "</table>")?;
    for m in &report.models {
        let (model, sha256) = (escape(&m.model), escape(&m.sha256));
        writeln!(html, "<p class=muted><code>{model}</code>: SHA-256 of its file <code>{sha256}</code></p>")?;
    }
    Ok(())
}

fn outages(html: &mut String, report: &LotReport) -> std::fmt::Result {
    writeln!(html, "<h2>Downtime and degraded intervals</h2>")?;
    if report.outages.is_empty() {
        return writeln!(html, "<p class=muted>None recorded.</p>");
    }
    table(html, &["from", "until", "#seconds", "of", "what"])?;
    for o in &report.outages {
        let (to, seconds) = match o.to {
            Some(to) => (moment(to), format!("{:.0}", (to - o.from).as_seconds_f64())),
            None if report.lot.closed.is_some() => ("<b class=bad>after the lot's end</b>".into(), String::new()),
            None => ("<b class=bad>not over</b>".into(), String::new()),
        };
        writeln!(
            html,
            "<tr><td class=time>{}<td class=time>{to}<td class=n>{seconds}<td>{}<td>{}",
            moment(o.from),
            escape(&o.of),
            escape(&o.what)
        )?;
    }
    writeln!(html, "</table>")
}

fn challenges(html: &mut String, challenges: &[Challenge]) -> std::fmt::Result {
    writeln!(html, "<h2>Challenge tests</h2>")?;
    if challenges.is_empty() {
        return writeln!(html, "<p class=muted>No known wrong piece was sent through in this lot.</p>");
    }
    table(html, &["announced", "piece", "to be taken for", "camera", "by", "result", "#items seen", "#verdict"])?;
    for c in challenges {
        let result = match (c.found, c.acknowledged, c.confirmed) {
            (Some(true), None, _) => {
                "<b class=good>rejected</b>; no gate is configured, or an older version looked no further".into()
            }
            (Some(true), _, None) => "<b class=good>taken off</b>: the gate acknowledged".into(),
            (Some(true), ..) => "<b class=good>taken off</b>: the gate acknowledged, the sensor confirmed".into(),
            (Some(false), ..) => format!("<b class=bad>missed</b>{}", reason(&c.why)),
            (None, ..) => String::from("<b class=open>running</b>"),
        };
        let number = |n: Option<i64>| n.map_or(String::new(), |n| n.to_string());
        writeln!(
            html,
            "<tr><td class=time>{}<td>{}<td>{}<td>{}<td>{}<td>{result}<td class=n>{}<td class=n>{}",
            moment(c.announced),
            escape(&c.piece),
            escape(c.class.as_deref().unwrap_or("anything that may not pass")),
            escape(&c.camera),
            escape(&c.by),
            number(c.items),
            number(c.verdict)
        )?;
    }
    writeln!(html, "</table>")
}

fn reason(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {}", escape(why)) }
}

fn actions(html: &mut String, actions: &[CorrectiveAction]) -> std::fmt::Result {
    writeln!(html, "<h2>Corrective actions</h2>")?;
    if actions.is_empty() {
        return writeln!(html, "<p class=muted>None.</p>");
    }
    table(html, &["opened", "cause", "in doubt since", "lots", "closed", "what was done"])?;
    for a in actions {
        let closed = a.closed.map_or("<b class=bad>open</b>".into(), |at| format!("{}{}", moment(at), by(&a.by)));
        let since = a.last_good.map_or("the beginning: no challenge was ever found".into(), moment);
        let lots: Vec<_> = a.lots.iter().map(i64::to_string).collect();
        let lots = lots.join(", ");
        writeln!(
            html,
            "<tr><td class=time>{}<td>No. {}: {}<td>{since}<td>{lots}<td>{closed}<td>{}",
            moment(a.opened),
            a.action,
            escape(&a.cause),
            escape(&a.done)
        )?;
    }
    writeln!(html, "</table>")
}

fn items(html: &mut String, report: &LotReport, taken_off: &[Verdict]) -> std::fmt::Result {
    writeln!(html, "<h2>Rejected and diverted items</h2>")?;
    let all = report.counts.reject + report.counts.divert;
    if all == 0 {
        return writeln!(html, "<p class=muted>None.</p>");
    }
    if all > taken_off.len() as u64 {
        let shown = taken_off.len();
        writeln!(html, "<p>The newest {shown} of {all} (at most {LISTED} are listed here); the CSV has all.</p>")?;
    }
    table(html, &["time", "#verdict", "camera", "action", "reason", "class", "#P(accepted class)", "picture"])?;
    for v in taken_off {
        let picture = v.frame.as_ref().map_or(String::new(), |key| {
            let short = key.get(9..17).unwrap_or(key);
            format!("<a href=\"/frames/{0}\"><code>{1}</code></a>", escape(key), escape(short))
        });
        let source = if v.camera.is_empty() { v.source.name() } else { &v.camera };
        let reason = v.fault.as_deref().unwrap_or(v.decision.reason.name()).replace('_', " ");
        writeln!(
            html,
            "<tr><td class=time>{}<td class=n><a href=\"/verdicts/{}\">{}</a><td>{}<td>{}<td>{}<td>{}<td class=n>{:.3}<td>{picture}",
            moment(v.time),
            v.uid,
            v.id,
            escape(source),
            v.decision.action.name(),
            escape(&reason),
            escape(v.decision.class.as_deref().unwrap_or("")),
            v.decision.accept_probability
        )?;
    }
    writeln!(html, "</table>")
}

fn sign_off(html: &mut String, report: &LotReport) -> std::fmt::Result {
    writeln!(html, "<h2>Review</h2>")?;
    for s in &report.lot.signed_off {
        let remark = if s.remark.is_empty() { String::new() } else { format!(": {}", escape(&s.remark)) };
        writeln!(html, "<p>Signed off by <b>{}</b>, {}{remark}</p>", escape(&s.name), moment(s.time))?;
    }
    for w in &report.lot.withdrawn {
        let remark = reason(&w.remark);
        let (signed, withdrawn) = (moment(w.time), moment(w.withdrawn));
        let (name, why) = (escape(&w.name), escape(&w.why));
        writeln!(html, "<p class=muted>Signed off by {name}, {signed}{remark}; withdrawn {withdrawn}: {why}</p>")?;
    }
    if report.lot.signed_off.is_empty() {
        let what = if report.lot.withdrawn.is_empty() {
            "Nobody has signed this lot off in the record yet."
        } else {
            "<b class=bad>This lot is not signed off: it came into doubt after it was.</b>"
        };
        writeln!(html, "<p class=muted>{what}</p>")?;
    }
    writeln!(html, "<div class=sign><div>name</div><div>date</div><div>signature</div></div>")
}

fn chain(html: &mut String, report: &LotReport, verified: &LotVerification) -> std::fmt::Result {
    let lot = &report.lot;
    let to = lot.closed_at.map_or("now".into(), |at| at.to_string());
    let parts: Vec<_> = verified.parts.iter().map(|(from, to)| format!("{from} to {to}")).collect();
    let parts = parts.join(", ");
    writeln!(html, "<h2>Where this comes from</h2><div class=chain>")?;
    if verified.findings.is_empty() {
        writeln!(
            html,
            "<p><b class=good>Entries {parts} were verified: whole and unchanged.</b> Every hash and verdict, and the \
             signatures at both ends of each part. They hold this lot and what was said of it later.</p>"
        )?;
    } else {
        writeln!(html, "<p><b class=bad>Entries {parts} were verified, and the record is BROKEN:</b></p><ul>")?;
        for f in &verified.findings {
            writeln!(html, "<li>entry {}: {}", f.entry, escape(&f.what))?;
        }
        writeln!(html, "</ul>")?;
    }
    if verified.removed > 0 {
        writeln!(html, "<p>{} verdicts in them were removed by retention; their entries stand.</p>", verified.removed)?;
    }
    writeln!(
        html,
        "<p class=muted>The rest was not verified for this page, nor was what it says of models and downtime from entries \
         before these: <code>beltsight record verify</code> verifies all.</p>"
    )?;
    let from = lot.lot;
    writeln!(html, "<p>The lot stands in the record from entry {from} to {to}. The newest entry and its hash:</p>")?;
    writeln!(html, "<p><code>{}:{}</code></p>", report.head, report.head_hash)?;
    writeln!(html, "<p>public key <code>{}</code></p>", verified.public_key)?;
    writeln!(
        html,
        "<p class=muted>To check later that nothing up to here was replaced: <code>beltsight record verify --store FOLDER \
         --kept ENTRY:HASH</code> with the entry and hash above.</p></div>"
    )
}

/// Opens a table; a `#` before a column's name sets it as numbers.
fn table(html: &mut String, columns: &[&str]) -> std::fmt::Result {
    write!(html, "<table><thead><tr>")?;
    for column in columns {
        match column.strip_prefix('#') {
            Some(name) => write!(html, "<th class=n>{name}")?,
            None => write!(html, "<th>{column}")?,
        }
    }
    writeln!(html, "</thead>")
}

fn moment(time: OffsetDateTime) -> String {
    let t = time.to_offset(UtcOffset::UTC);
    let (year, month, day) = (t.year(), u8::from(t.month()), t.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", t.hour(), t.minute(), t.second())
}

fn by(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" by {}", escape(name)) }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
