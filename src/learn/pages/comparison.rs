//! A comparison as one self-contained HTML page, and as a table in Markdown.

use std::fmt::Write as _;

use plotters::prelude::*;

use crate::{
    pages::html::{STYLE, escape, plot_error, section},
    training::comparison::{Comparison, ComparisonCell, LabelBudget, ValidationScore, mean_sd},
};

/// Accuracy and corruption error per method and number of labels, in Markdown.
pub fn table(comparison: &Comparison) -> String {
    let mut text = String::from(
        "| labels per class | method | accuracy | AUC, accepted or not | error under corruption | distilled | seconds |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for labels in comparison.label_budgets() {
        for method in
            comparison.method_names().into_iter().filter(|method| comparison.cells_of(method, labels).next().is_some())
        {
            let of = |value: fn(&ComparisonCell) -> Option<f64>, digits| {
                comparison.spread_text(method, labels, digits, value)
            };
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
pub fn render(comparison: &Comparison) -> anyhow::Result<String> {
    let seeds = comparison.cells.iter().map(|c| c.seed).max().unwrap_or(0);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Learning methods compared</title><style>{STYLE}</style><main><h1>Learning methods compared</h1>\
         <p class=\"quiet\">{}. {} training pictures, {} held out (one fixed share; groups stay whole), {} classes, {seeds} \
         seed(s): each chooses the labeled pictures, the order and dropout. {}, {}. \
         Data snapshot <code>{}</code></p>",
        escape(&comparison.network),
        comparison.pictures.0,
        comparison.pictures.1,
        comparison.classes.len(),
        escape(&comparison.machine),
        comparison.date.get(..10).unwrap_or_default(),
        comparison.data_sha256.get(..12).unwrap_or_default(),
    );
    let mut section = |title: &str, body: &str| section(&mut page, title, body);
    section("Accuracy over labels (mean and one standard deviation)", &over_labels(comparison)?);
    let bought = comparison.labels_saved();
    let list: String = bought.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
    section(
        "What that buys",
        &if bought.is_empty() { "<p>Nothing here.</p>".into() } else { format!("<ul>{list}</ul>") },
    );
    section("Table", &html_table(comparison));
    let curves = comparison
        .label_budgets()
        .into_iter()
        .filter(|&n| comparison.cells.iter().any(|c| c.labels == n && !c.precision.is_empty()));
    let curves = curves.map(|n| pseudo_labels(comparison, n)).collect::<anyhow::Result<String>>()?;
    section("Pseudo-labels over the run: share that was right (thick), share that was used (thin)", &curves);
    let robust: String = comparison.label_budgets().into_iter().map(|n| robustness(comparison, n)).collect();
    section("Error on damaged pictures: mean over five strengths, and below it each of them", &robust);
    let settings = escape(&serde_json::to_string_pretty(&comparison.methods)?);
    section("Settings", &format!("<p><code>{}</code></p><pre>{settings}</pre>", escape(&comparison.command)));
    page += "</main></html>\n";
    Ok(page)
}

fn colour(i: usize) -> RGBColor {
    const COLOURS: [(u8, u8, u8); 6] =
        [(90, 98, 110), (217, 130, 43), (180, 90, 140), (66, 133, 190), (52, 140, 90), (130, 120, 190)];
    let (r, g, b) = COLOURS[i % COLOURS.len()];
    RGBColor(r, g, b)
}

fn over_labels(comparison: &Comparison) -> anyhow::Result<String> {
    let labels = comparison.label_budgets();
    let all: Vec<f64> = comparison.cells.iter().map(|c| c.score.accuracy).collect();
    let low = (all.iter().copied().fold(1.0, f64::min) - 0.05).max(0.0);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (960, 420)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(-0.3..labels.len() as f64 - 0.7, low..1.005)
            .map_err(plot_error)?;
        let name = |x: &f64| {
            let near = x.round();
            let label = labels.get(near as usize).filter(|_| near >= 0.0 && (x - near).abs() < 0.01);
            label.map_or(String::new(), LabelBudget::to_string)
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_labels(labels.len() * 10)
            .set_tick_mark_size(LabelAreaPosition::Bottom, 0)
            .x_label_formatter(&name)
            .x_desc("labels per class")
            .y_desc("accuracy")
            .draw()
            .map_err(plot_error)?;
        for (i, method) in comparison.method_names().into_iter().enumerate() {
            let shift = (i as f64 - comparison.method_names().len() as f64 / 2.0) * 0.02; // bars beside, not over, each other
            let points: Vec<(f64, f64, f64)> = labels
                .iter()
                .zip(0..)
                .filter_map(|(&n, x)| {
                    let (mean, sd) = comparison.spread(method, n, |c| Some(c.score.accuracy))?;
                    Some((f64::from(x) + shift, mean, sd))
                })
                .collect();
            let style = colour(i).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().map(|p| (p.0, p.1)), style))
                .map_err(plot_error)?
                .label(method)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
            let bars = points.iter().map(|&(x, mean, sd)| PathElement::new([(x, mean - sd), (x, mean + sd)], style));
            chart.draw_series(bars).map_err(plot_error)?;
            let dots = points.iter().map(|&(x, mean, _)| Circle::new((x, mean), 4, colour(i).filled()));
            chart.draw_series(dots).map_err(plot_error)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .draw()
            .map_err(plot_error)?;
        area.present().map_err(plot_error)?;
    }
    Ok(svg)
}

fn html_table(comparison: &Comparison) -> String {
    let markdown = table(comparison);
    let mut rows = markdown.lines().enumerate().filter(|(i, _)| *i != 1).map(|(i, line)| {
        let tag = if i == 0 { "th" } else { "td" };
        let cells: String =
            line.trim_matches('|').split('|').map(|c| format!("<{tag}>{}</{tag}>", escape(c.trim()))).collect();
        format!("<tr>{cells}</tr>")
    });
    format!("<div class=\"scroll\"><table>{}</table></div>", rows.by_ref().collect::<String>())
}

/// Coverage (thin) and precision (thick) over the run, mean over seeds.
fn pseudo_labels(comparison: &Comparison, labels: LabelBudget) -> anyhow::Result<String> {
    let mean_over_seeds = |method: &str, values: fn(&ComparisonCell) -> Vec<Option<f64>>| -> Vec<(f64, f64)> {
        let runs: Vec<Vec<Option<f64>>> =
            comparison.cells_of(method, labels).map(values).filter(|v| !v.is_empty()).collect();
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
            .caption(format!("{labels} labels per class"), ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(40)
            .build_cartesian_2d(0.0..1.0, 0.0..1.02)
            .map_err(plot_error)?;
        chart.configure_mesh().light_line_style(WHITE).x_desc("share of the run").draw().map_err(plot_error)?;
        for (i, method) in comparison.method_names().into_iter().enumerate() {
            let precision = mean_over_seeds(method, |c| c.precision.clone());
            if precision.is_empty() {
                continue;
            }
            let thick = colour(i).stroke_width(3);
            chart
                .draw_series(LineSeries::new(precision, thick))
                .map_err(plot_error)?
                .label(method)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], thick));
            let coverage = mean_over_seeds(method, |c| c.coverage.iter().copied().map(Some).collect());
            chart.draw_series(LineSeries::new(coverage, colour(i).stroke_width(1))).map_err(plot_error)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .draw()
            .map_err(plot_error)?;
        area.present().map_err(plot_error)?;
    }
    Ok(svg)
}

fn robustness(comparison: &Comparison, labels: LabelBudget) -> String {
    let names: Vec<&String> = comparison.cells.first().map_or(Vec::new(), |c| c.score.corrupted.keys().collect());
    let head: String = names.iter().map(|n| format!("<th>{}</th>", escape(n))).collect();
    let mut body = String::new();
    for method in comparison.method_names() {
        let row = |whose: &str, score: fn(&ComparisonCell) -> Option<&ValidationScore>| -> String {
            let spread_text = |value: &dyn Fn(&ValidationScore) -> f64, digits| {
                comparison.spread_text(method, labels, digits, |c| score(c).map(value))
            };
            if comparison.cells_of(method, labels).all(|c| score(c).is_none()) {
                return String::new();
            }
            let cells: String = names
                .iter()
                .map(|name| {
                    let errors = |s: &ValidationScore| s.corrupted.get(*name).copied().unwrap_or_default();
                    let mean = spread_text(&|s| errors(s).iter().sum::<f64>() / 5.0, 3);
                    let each = |strength: usize| {
                        let spread = comparison.spread(method, labels, |c| score(c).map(|s| errors(s)[strength]));
                        spread.map_or(String::new(), |(mean, _)| format!("{mean:.2} "))
                    };
                    format!("<td>{mean}<br><small>{}</small></td>", (0..5).map(each).collect::<String>().trim_end())
                })
                .collect();
            let all = spread_text(&ValidationScore::mean_corruption_error, 3);
            format!("<tr><th>{}{whose}</th>{cells}<td>{all}</td></tr>", escape(method))
        };
        body += &row("", |c| Some(&c.score));
        body += &row(", distilled", |c| c.distilled.as_ref().map(|d| &d.score));
    }
    format!(
        "<h3>{labels} labels per class</h3><div class=\"scroll\"><table><tr><th></th>{head}<th>all</th></tr>{body}</table></div>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::comparison::testing::comparison;

    #[test]
    fn the_page_shows_every_method() {
        let page = render(&comparison(&[("supervised", 4, 0.7), ("<b>", 4, 0.8)])).unwrap_or_default();
        assert!(page.contains("supervised") && page.contains("&lt;b&gt;") && !page.contains("<b>"));
        assert!(page.contains("0.300<br>") && page.contains("0.10 0.20 0.30 0.40 0.50"), "mean and the five strengths");
        assert!(!page.contains("±"), "one seed has no deviation");
        let two = comparison(&[("supervised", 4, 0.7), ("supervised", 4, 0.9)]);
        assert!(table(&two).contains("0.8000 ± 0.1414"), "{}", table(&two));
    }
}
