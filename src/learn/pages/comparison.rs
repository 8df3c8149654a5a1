//! A comparison as one self-contained HTML page, and as a table in Markdown.

use std::fmt::Write as _;

use plotters::prelude::*;

use crate::{
    commands::compare::{Cell, Labels, Results, Score},
    pages::report::{STYLE, escape, plot},
};

/// Mean and standard deviation (of the sample; 0 for a single value).
pub fn mean_sd(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

impl Results {
    fn labels(&self) -> Vec<Labels> {
        let mut all: Vec<Labels> = self.cells.iter().map(|c| c.labels).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !names.contains(&cell.method.as_str()) {
                names.push(&cell.method);
            }
        }
        names
    }

    fn of(&self, method: &str, labels: Labels) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(move |c| c.method == method && c.labels == labels)
    }

    /// Mean and deviation over seeds; none when no cell has the value.
    fn spread(&self, method: &str, labels: Labels, value: impl Fn(&Cell) -> Option<f64>) -> Option<(f64, f64)> {
        let values: Vec<f64> = self.of(method, labels).filter_map(value).collect();
        (!values.is_empty()).then(|| mean_sd(&values))
    }

    /// The same in words: nothing where no cell has the value, and a lone value without a deviation, which it has none of.
    fn shown(&self, method: &str, labels: Labels, digits: usize, value: impl Fn(&Cell) -> Option<f64>) -> String {
        let values: Vec<f64> = self.of(method, labels).filter_map(value).collect();
        let (mean, sd) = mean_sd(&values);
        match values.len() {
            0 => String::new(),
            1 => format!("{mean:.digits$}"),
            _ => format!("{mean:.digits$} ± {sd:.digits$}"),
        }
    }

    /// For every method and number of labels: the fewest labels with which supervised learning is as accurate.
    fn bought(&self) -> Vec<String> {
        let accuracy = |method: &str, labels| self.spread(method, labels, |c| Some(c.score.accuracy)).map(|s| s.0);
        let mut lines = Vec::new();
        if !self.names().contains(&"supervised") {
            return lines;
        }
        for labels in self.labels() {
            for method in self.names().into_iter().filter(|m| *m != "supervised") {
                let Some(reached) = accuracy(method, labels) else { continue };
                let enough =
                    self.labels().into_iter().find(|&n| accuracy("supervised", n).is_some_and(|a| a >= reached));
                let needs = match enough {
                    Some(n) if n > labels => {
                        format!("what supervised learning needs {n} for").replace("needs all", "needs all labels")
                    }
                    Some(_) => continue,
                    None => "what supervised learning does not reach with any number tried".into(),
                };
                let noun = if labels == Labels::Each(1) { "label" } else { "labels" };
                lines.push(format!("With {labels} {noun} a class {method} reaches {reached:.4}: {needs}."));
            }
        }
        lines
    }
}

/// Accuracy and corruption error per method and number of labels, in Markdown.
pub fn table(results: &Results) -> String {
    let mut text = String::from(
        "| labels a class | method | accuracy | AUC, accepted or not | error under corruption | distilled | seconds |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for labels in results.labels() {
        for method in results.names().into_iter().filter(|method| results.of(method, labels).next().is_some()) {
            let of = |value: fn(&Cell) -> Option<f64>, digits| results.shown(method, labels, digits, value);
            let _ = writeln!(
                text,
                "| {labels} | {method} | {} | {} | {} | {} | {} |",
                of(|c| Some(c.score.accuracy), 4),
                of(|c| c.score.auc, 4),
                of(|c| Some(c.score.mean_corruption_error()), 4),
                of(|c| c.distilled.as_ref().map(|d| d.score.accuracy), 4),
                of(|c| Some(c.seconds), 1),
            );
        }
    }
    text
}

/// Renders the page.
///
/// # Errors
/// When a plot can't be drawn.
pub fn render(results: &Results) -> anyhow::Result<String> {
    let seeds = results.cells.iter().map(|c| c.seed).max().unwrap_or(0);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Learning methods compared</title><style>{STYLE}</style><main><h1>Learning methods compared</h1>\
         <p class=\"quiet\">{}. {} training pictures, {} held out (one fixed share; groups stay whole), {} classes, {seeds} \
         seed(s): each chooses the labeled pictures, the order and dropout. {}, {}. \
         Data snapshot <code>{}</code></p>",
        escape(&results.network),
        results.pictures.0,
        results.pictures.1,
        results.classes.len(),
        escape(&results.machine),
        results.date.get(..10).unwrap_or_default(),
        results.data_sha256.get(..12).unwrap_or_default(),
    );
    let mut section = |title: &str, body: &str| {
        page += &format!("<section><h2>{title}</h2>{body}</section>");
    };
    section("Accuracy over labels (mean and one standard deviation)", &over_labels(results)?);
    let bought = results.bought();
    let list: String = bought.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
    section(
        "What that buys",
        &if bought.is_empty() { "<p>Nothing here.</p>".into() } else { format!("<ul>{list}</ul>") },
    );
    section("Table", &html_table(results));
    let curves = results
        .labels()
        .into_iter()
        .filter(|&n| results.cells.iter().any(|c| c.labels == n && !c.precision.is_empty()));
    let curves = curves.map(|n| pseudo_labels(results, n)).collect::<anyhow::Result<String>>()?;
    section("Pseudo-labels over the run: share that was right (thick), share that was used (thin)", &curves);
    let robust: String = results.labels().into_iter().map(|n| robustness(results, n)).collect();
    section("Error on damaged pictures: mean over five strengths, and below it each of them", &robust);
    let settings = escape(&serde_json::to_string_pretty(&results.methods)?);
    section("Settings", &format!("<p><code>{}</code></p><pre>{settings}</pre>", escape(&results.command)));
    page += "</main></html>\n";
    Ok(page)
}

fn colour(i: usize) -> RGBColor {
    const COLOURS: [(u8, u8, u8); 6] =
        [(90, 98, 110), (217, 130, 43), (180, 90, 140), (66, 133, 190), (52, 140, 90), (130, 120, 190)];
    let (r, g, b) = COLOURS[i % COLOURS.len()];
    RGBColor(r, g, b)
}

fn over_labels(results: &Results) -> anyhow::Result<String> {
    let labels = results.labels();
    let all: Vec<f64> = results.cells.iter().map(|c| c.score.accuracy).collect();
    let low = (all.iter().copied().fold(1.0, f64::min) - 0.05).max(0.0);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (960, 420)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(-0.3..labels.len() as f64 - 0.7, low..1.005)
            .map_err(plot)?;
        let name = |x: &f64| {
            let near = x.round();
            let label = labels.get(near as usize).filter(|_| near >= 0.0 && (x - near).abs() < 0.01);
            label.map_or(String::new(), Labels::to_string)
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_labels(labels.len() * 10)
            .set_tick_mark_size(LabelAreaPosition::Bottom, 0)
            .x_label_formatter(&name)
            .x_desc("labels a class")
            .y_desc("accuracy")
            .draw()
            .map_err(plot)?;
        for (i, method) in results.names().into_iter().enumerate() {
            let shift = (i as f64 - results.names().len() as f64 / 2.0) * 0.02; // bars beside, not over, each other
            let points: Vec<(f64, f64, f64)> = labels
                .iter()
                .zip(0..)
                .filter_map(|(&n, x)| {
                    let (mean, sd) = results.spread(method, n, |c| Some(c.score.accuracy))?;
                    Some((f64::from(x) + shift, mean, sd))
                })
                .collect();
            let style = colour(i).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().map(|p| (p.0, p.1)), style))
                .map_err(plot)?
                .label(method)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
            let bars = points.iter().map(|&(x, mean, sd)| PathElement::new([(x, mean - sd), (x, mean + sd)], style));
            chart.draw_series(bars).map_err(plot)?;
            let dots = points.iter().map(|&(x, mean, _)| Circle::new((x, mean), 4, colour(i).filled()));
            chart.draw_series(dots).map_err(plot)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .draw()
            .map_err(plot)?;
        area.present().map_err(plot)?;
    }
    Ok(svg)
}

fn html_table(results: &Results) -> String {
    let markdown = table(results);
    let mut rows = markdown.lines().enumerate().filter(|(i, _)| *i != 1).map(|(i, line)| {
        let tag = if i == 0 { "th" } else { "td" };
        let cells: String =
            line.trim_matches('|').split('|').map(|c| format!("<{tag}>{}</{tag}>", escape(c.trim()))).collect();
        format!("<tr>{cells}</tr>")
    });
    format!("<div class=\"scroll\"><table>{}</table></div>", rows.by_ref().collect::<String>())
}

/// Coverage (thin) and precision (thick) over the run, mean over seeds.
fn pseudo_labels(results: &Results, labels: Labels) -> anyhow::Result<String> {
    let mean_over_seeds = |method: &str, values: fn(&Cell) -> Vec<Option<f64>>| -> Vec<(f64, f64)> {
        let runs: Vec<Vec<Option<f64>>> = results.of(method, labels).map(values).filter(|v| !v.is_empty()).collect();
        let length = runs.iter().map(|v| v.len()).min().unwrap_or(0);
        (0..length)
            .filter_map(|i| {
                let there: Vec<f64> = runs.iter().filter_map(|v| v[i]).collect();
                (!there.is_empty()).then(|| ((i + 1) as f64 / length as f64, mean_sd(&there).0))
            })
            .collect()
    };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (470, 280)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{labels} labels a class"), ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(40)
            .build_cartesian_2d(0.0..1.0, 0.0..1.02)
            .map_err(plot)?;
        chart.configure_mesh().light_line_style(WHITE).x_desc("share of the run").draw().map_err(plot)?;
        for (i, method) in results.names().into_iter().enumerate() {
            let precision = mean_over_seeds(method, |c| c.precision.clone());
            if precision.is_empty() {
                continue;
            }
            let thick = colour(i).stroke_width(3);
            chart
                .draw_series(LineSeries::new(precision, thick))
                .map_err(plot)?
                .label(method)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], thick));
            let coverage = mean_over_seeds(method, |c| c.coverage.iter().copied().map(Some).collect());
            chart.draw_series(LineSeries::new(coverage, colour(i).stroke_width(1))).map_err(plot)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .draw()
            .map_err(plot)?;
        area.present().map_err(plot)?;
    }
    Ok(svg)
}

fn robustness(results: &Results, labels: Labels) -> String {
    let names: Vec<&String> = results.cells.first().map_or(Vec::new(), |c| c.score.corrupted.keys().collect());
    let head: String = names.iter().map(|n| format!("<th>{}</th>", escape(n))).collect();
    let mut body = String::new();
    for method in results.names() {
        let row = |whose: &str, score: fn(&Cell) -> Option<&Score>| -> String {
            let shown =
                |value: &dyn Fn(&Score) -> f64, digits| results.shown(method, labels, digits, |c| score(c).map(value));
            if results.of(method, labels).all(|c| score(c).is_none()) {
                return String::new();
            }
            let cells: String = names
                .iter()
                .map(|name| {
                    let errors = |s: &Score| s.corrupted.get(*name).copied().unwrap_or_default();
                    let mean = shown(&|s| errors(s).iter().sum::<f64>() / 5.0, 3);
                    let each = |strength: usize| {
                        let spread = results.spread(method, labels, |c| score(c).map(|s| errors(s)[strength]));
                        spread.map_or(String::new(), |(mean, _)| format!("{mean:.2} "))
                    };
                    format!("<td>{mean}<br><small>{}</small></td>", (0..5).map(each).collect::<String>().trim_end())
                })
                .collect();
            let all = shown(&Score::mean_corruption_error, 3);
            format!("<tr><th>{}{whose}</th>{cells}<td>{all}</td></tr>", escape(method))
        };
        body += &row("", |c| Some(&c.score));
        body += &row(", distilled", |c| c.distilled.as_ref().map(|d| &d.score));
    }
    format!(
        "<h3>{labels} labels a class</h3><div class=\"scroll\"><table><tr><th></th>{head}<th>all</th></tr>{body}</table></div>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(accuracies: &[(&str, usize, f64)]) -> Results {
        let cell = |&(method, n, accuracy): &(&str, usize, f64)| Cell {
            method: method.into(),
            labels: Labels::Each(n),
            seed: 1,
            score: Score { accuracy, auc: None, corrupted: [("blur".to_string(), [0.1, 0.2, 0.3, 0.4, 0.5])].into() },
            seconds: 1.0,
            coverage: vec![0.5],
            precision: vec![Some(0.9)],
            distilled: None,
        };
        Results {
            date: "2026-01-01T00:00:00Z".into(),
            machine: "test".into(),
            command: String::new(),
            data_sha256: "0123456789abcdef".into(),
            pictures: (8, 2),
            classes: vec!["a".into(), "b".into()],
            network: "n".into(),
            methods: vec![],
            setting: serde_json::Value::Null,
            preparing_seconds: 0.0,
            cells: accuracies.iter().map(cell).collect(),
        }
    }

    #[test]
    fn what_it_buys_is_the_fewest_labels_that_supervised_learning_needs() {
        let found = results(&[
            ("supervised", 4, 0.7),
            ("supervised", 10, 0.8),
            ("supervised", 40, 0.9),
            ("fixmatch", 4, 0.85),
            ("fixmatch", 10, 0.95),
            ("fixmatch", 40, 0.89),
        ]);
        let lines = found.bought();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("With 4 labels") && lines[0].contains("needs 40 for"));
        assert!(lines[1].contains("With 10 labels") && lines[1].contains("does not reach"));
    }

    #[test]
    fn the_page_shows_every_method() {
        let page = render(&results(&[("supervised", 4, 0.7), ("<b>", 4, 0.8)])).unwrap_or_default();
        assert!(page.contains("supervised") && page.contains("&lt;b&gt;") && !page.contains("<b>"));
        assert!(page.contains("0.300<br>") && page.contains("0.10 0.20 0.30 0.40 0.50"), "mean and the five strengths");
        assert!(!page.contains("±"), "one seed has no deviation");
        let two = results(&[("supervised", 4, 0.7), ("supervised", 4, 0.9)]);
        assert!(table(&two).contains("0.8000 ± 0.1414"), "{}", table(&two));
    }

    #[test]
    fn without_supervised_learning_nothing_is_said_of_it() {
        assert!(results(&[("fixmatch", 4, 0.7)]).bought().is_empty());
    }

    #[test]
    fn deviation_is_that_of_a_sample() {
        assert_eq!(mean_sd(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
        assert_eq!(mean_sd(&[5.0]), (5.0, 0.0));
    }
}
