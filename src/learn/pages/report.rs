//! The run as one self-contained HTML page: figures, curves, confusion, calibration, worst mistakes, settings.
//!
//! Invariant: the page loads nothing from anywhere; every text from outside is escaped.

use std::fmt::Write as _;

use anyhow::Context;
use base64::Engine as _;
use beltsight::{
    domain::Picture,
    picture::pixels,
    student::scorecard::{Bin, Scorecard, argmax, reliability},
};
use plotters::prelude::*;

use crate::{
    pages::{
        html::{STYLE, escape, plot_error, section},
        sheet,
    },
    pictures::data::Dataset,
    training::{
        evaluate::{Prediction, Validation},
        export::TrainedStudent,
        log::Metric,
        teacher::DistillationGain,
    },
};

const WORST: usize = 18;
/// Renders the page.
///
/// # Errors
/// When a plot can't be drawn or a picture not encoded.
pub fn render(
    student: &TrainedStudent,
    validation: &Validation,
    data: &Dataset,
    metrics: &[Metric],
    config: &serde_json::Value,
    gain: Option<&DistillationGain>,
) -> anyhow::Result<String> {
    let card = &validation.pooled;
    let lineage = &student.lineage;
    let how = match validation.folds {
        1 => format!("{} held-out pictures", card.pictures),
        folds => format!("{folds}-fold cross-validation over {} pictures", card.pictures),
    };
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><main><h1>{title}</h1><p class=\"quiet\">{how}; groups of pictures \
         stay on one side of every split. Data snapshot <code>{hash}</code></p><div class=\"cards\">",
        title = escape(&format!("{} on {} classes, {}", lineage.net, data.classes.len(), lineage.method)),
        hash = &lineage.data_sha256[..12.min(lineage.data_sha256.len())],
    );
    for (name, value) in [
        ("accuracy", card.accuracy),
        ("AUC, accepted against the rest", card.auc),
        ("recall at 1 % false accepts", card.recall_at_1pct_false_accepts),
        ("calibration error", card.calibration_error),
    ] {
        write!(page, "<div class=\"card\"><b>{value:.4}</b><span>{name}</span></div>")?;
    }
    page += "</div>";
    let curves = [
        curve(metrics, "loss", |m| Some(m.loss))?,
        curve(metrics, "validation accuracy", |m| m.validation_accuracy)?,
        curve(metrics, "pseudo-labels used (share)", |m| m.coverage)?,
        curve(metrics, "pseudo-labels right (share, where the truth is known)", |m| m.precision)?,
    ];
    section(&mut page, "Learning curves", &format!("<div class=\"pair\">{}</div>", curves.concat()));
    if let Some(gain) = gain {
        section(&mut page, "What distilling bought", &distillation_gain(gain));
    }
    section(&mut page, "Confusion: rows are the truth, columns what was said", &confusion(card));
    let rows: Vec<Vec<f32>> = validation.pictures.iter().map(|p| p.probabilities.clone()).collect();
    let truth: Vec<usize> = validation.pictures.iter().map(|p| p.truth).collect();
    let calibration = format!(
        "<div class=\"pair\"><div>{}</div><p>A bar on the diagonal says: of the pictures called with this confidence, \
         that share is right. Temperature {:.3} was fitted to these pictures; before it the calibration error was \
         {:.4}.</p></div>",
        reliability_diagram(&reliability(&rows, &truth, 10))?,
        validation.thresholds.temperature,
        validation.calibration_error_at_temperature_1,
    );
    section(&mut page, "Calibration", &calibration);
    section(&mut page, "Worst mistakes, then the narrowest escapes", &mistakes(validation, data)?);
    section(&mut page, "Scorecard", &scorecard(validation));
    section(&mut page, "Speed", &speed(metrics));
    page += &sheet::section(&data.pictures.get(0)?, student.model.net.input, lineage.seed)?;
    let settings = escape(&serde_json::to_string_pretty(config)?);
    section(&mut page, "Settings", &format!("<p><code>{}</code></p><pre>{settings}</pre>", escape(&lineage.command)));
    page += "</main></html>\n";
    Ok(page)
}

/// One line per run over the epochs; empty when no run has the value.
fn curve(metrics: &[Metric], title: &str, value: impl Fn(&Metric) -> Option<f64>) -> anyhow::Result<String> {
    let mut runs: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
    for metric in metrics {
        let Some(y) = value(metric) else { continue };
        let point = (metric.epoch as f64, y);
        match runs.iter_mut().find(|(run, _)| *run == metric.run) {
            Some((_, points)) => points.push(point),
            None => runs.push((&metric.run, vec![point])),
        }
    }
    let points = || runs.iter().flat_map(|(_, points)| points);
    if runs.is_empty() {
        return Ok(String::new());
    }
    let last = points().map(|p| p.0).fold(1.0, f64::max);
    let (low, high) = points().fold((f64::MAX, f64::MIN), |(low, high), p| (low.min(p.1), high.max(p.1)));
    let room = ((high - low) * 0.05).max(1e-3);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (480, 300)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(30)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..last, (low - room).max(0.0)..high + room)
            .map_err(plot_error)?;
        chart.configure_mesh().light_line_style(WHITE).x_desc("epoch").draw().map_err(plot_error)?;
        for (i, (run, points)) in runs.iter().enumerate() {
            let colour = if *run == "final" { RGBColor(20, 40, 60) } else { faded(i) };
            let width = if *run == "final" { 2 } else { 1 };
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(width)))
                .map_err(plot_error)?
                .label(*run)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).draw().map_err(plot_error)?;
        area.present().map_err(plot_error)?;
    }
    Ok(svg)
}

fn faded(i: usize) -> RGBColor {
    const COLOURS: [(u8, u8, u8); 5] = [(66, 133, 190), (217, 130, 43), (88, 160, 90), (180, 90, 140), (130, 120, 190)];
    let (r, g, b) = COLOURS[i % COLOURS.len()];
    RGBColor(r, g, b)
}

fn reliability_diagram(bins: &[Bin]) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (400, 300)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)
            .map_err(plot_error)?;
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(WHITE).x_desc("confidence").y_desc("accuracy").draw().map_err(plot_error)?;
        let wide = 1.0 / bins.len() as f64;
        let bars = bins.iter().enumerate().filter(|(_, bin)| bin.pictures > 0).map(|(i, bin)| {
            let left = i as f64 * wide;
            Rectangle::new([(left + 0.008, 0.0), (left + wide - 0.008, bin.accuracy)], faded(0).filled())
        });
        chart.draw_series(bars).map_err(plot_error)?;
        chart.draw_series(LineSeries::new([(0.0, 0.0), (1.0, 1.0)], BLACK.mix(0.5))).map_err(plot_error)?;
        area.present().map_err(plot_error)?;
    }
    Ok(svg)
}

fn confusion(card: &Scorecard) -> String {
    let head: String = card.classes.iter().map(|c| format!("<th>{}</th>", escape(c))).collect();
    let mut table = format!("<table class=\"confusion\"><thead><tr><th></th>{head}<th>recall</th></tr></thead>");
    for (truth, row) in card.confusion.iter().enumerate() {
        let all = row.iter().sum::<usize>().max(1) as f64;
        table += &format!("<tr><th>{}</th>", escape(&card.classes[truth]));
        for (predicted, &n) in row.iter().enumerate() {
            let share = n as f64 / all;
            let colour = if truth == predicted { "52, 132, 88" } else { "200, 60, 50" };
            let alpha = if n == 0 { 0.04 } else { 0.15 + 0.7 * share };
            let ink = if alpha > 0.6 { "#fff" } else { "inherit" };
            let count = if n == 0 { String::new() } else { n.to_string() };
            table += &format!("<td style=\"background: rgba({colour}, {alpha:.2}); color: {ink}\">{count}</td>");
        }
        table += &format!("<th>{:.3}</th></tr>", card.recall_per_class[truth]);
    }
    format!("<div class=\"scroll\">{table}</table></div>")
}

/// Where the time of each run went.
fn speed(metrics: &[Metric]) -> String {
    let mut runs: Vec<&str> = metrics.iter().map(|m| m.run.as_str()).collect();
    runs.dedup();
    let rows: String = runs
        .into_iter()
        .map(|run| {
            let of_run: Vec<&Metric> = metrics.iter().filter(|m| m.run == run).collect();
            let seconds: f64 = of_run.iter().map(|m| m.seconds).sum();
            let mean = |value: fn(&Metric) -> f64| {
                of_run.iter().map(|m| value(m) * m.seconds).sum::<f64>() / seconds.max(1e-9)
            };
            format!(
                "<tr><th>{}</th><td>{:.0}</td><td>{:.1} %</td><td>{:.1} %</td><td>{:.1} %</td></tr>",
                escape(run),
                mean(|m| m.pictures_per_second),
                100.0 * mean(|m| m.backward),
                100.0 * mean(|m| m.waiting),
                100.0 * mean(|m| m.labeling)
            )
        })
        .collect();
    format!(
        "<table><tr><th></th><th>views/s</th><th>time in backward</th><th>waiting for views</th><th>making pseudo-labels</th></tr>{rows}</table>"
    )
}

fn distillation_gain(gain: &DistillationGain) -> String {
    let rows: String = gain
        .rows
        .iter()
        .map(|row| {
            let accuracy = row.accuracy.map_or("".into(), |a| format!("{a:.4}"));
            let megabytes = row.bytes as f64 / 1e6;
            let name = escape(&row.name);
            format!(
                "<tr><th>{name}</th><td>{megabytes:.2} MB</td><td>{:.2} ms</td><td>{accuracy}</td></tr>",
                row.milliseconds
            )
        })
        .collect();
    let doubt = gain.doubt.as_ref().map_or(String::new(), |doubt| format!("<p>{}</p>", escape(doubt)));
    format!(
        "<table><tr><th></th><th>ONNX file</th><th>one picture</th><th>accuracy, held out</th></tr>{rows}</table>{doubt}"
    )
}

fn mistakes(validation: &Validation, data: &Dataset) -> anyhow::Result<String> {
    let mut ranked: Vec<&Prediction> = validation.pictures.iter().collect();
    let wrong = |p: &Prediction| argmax(&p.probabilities) != p.truth;
    ranked.sort_by(|a, b| wrong(b).cmp(&wrong(a)).then(a.probabilities[a.truth].total_cmp(&b.probabilities[b.truth])));
    let mut body = String::from("<div class=\"mistakes\">");
    for prediction in ranked.into_iter().take(WORST) {
        let picture =
            data.files.iter().position(|f| *f == prediction.file).context("a predicted file is not in the data")?;
        let predicted = argmax(&prediction.probabilities);
        let class = if wrong(prediction) { "wrong" } else { "right" };
        let rgb = data.pictures.get(picture)?;
        let side = ((rgb.len() / 3) as f64).sqrt() as u32;
        let jpeg = pixels::encode_jpeg(&Picture { width: side, height: side, rgb }, 80)?;
        write!(
            body,
            "<figure><img alt=\"\" src=\"data:image/jpeg;base64,{}\"><figcaption>{}<br>is {} ({:.2})<br>\
             <span class=\"{class}\">said {} ({:.2})</span></figcaption></figure>",
            base64::engine::general_purpose::STANDARD.encode(jpeg),
            escape(prediction.file.rsplit('/').next().unwrap_or_default()),
            escape(&data.classes[prediction.truth]),
            prediction.probabilities[prediction.truth],
            escape(&data.classes[predicted]),
            prediction.probabilities[predicted],
        )?;
    }
    Ok(body + "</div>")
}

fn scorecard(validation: &Validation) -> String {
    let mut columns = vec![("all held-out".to_string(), &validation.pooled)];
    if validation.folds > 1 {
        columns.extend(validation.per_fold.iter().enumerate().map(|(i, card)| (format!("fold {}", i + 1), card)));
    }
    let head: String = columns.iter().map(|(name, _)| format!("<th>{name}</th>")).collect();
    let mut table = format!("<table><tr><th></th>{head}</tr>");
    type Figure = (&'static str, fn(&Scorecard) -> f64, usize);
    let figures: [Figure; 7] = [
        ("pictures", |c| c.pictures as f64, 0),
        ("accuracy", |c| c.accuracy, 4),
        ("AUC", |c| c.auc, 4),
        ("average precision", |c| c.average_precision, 4),
        ("recall at 1 % false accepts", |c| c.recall_at_1pct_false_accepts, 4),
        ("recall at 0.1 % false accepts", |c| c.recall_at_01pct_false_accepts, 4),
        ("calibration error", |c| c.calibration_error, 4),
    ];
    for (name, figure, digits) in figures {
        let cells: String = columns.iter().map(|(_, card)| format!("<td>{:.digits$}</td>", figure(card))).collect();
        table += &format!("<tr><th>{name}</th>{cells}</tr>");
    }
    let t = &validation.thresholds;
    format!(
        "<div class=\"scroll\">{table}</table></div><p>Accepted: {} from {:.3}; unsure from {:.3}. Measured in {:.0} s.</p>",
        escape(&t.accept.join(", ")),
        t.accept_from,
        t.unsure_from,
        validation.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_are_escaped() {
        let classes = ["<script>".to_string(), "b".to_string()];
        let card = Scorecard::measure(&[vec![0.9, 0.1]], &[0], &classes, &classes[..1]);
        let table = confusion(&card);
        assert!(table.contains("&lt;script&gt;") && !table.contains("<script>"));
    }
}
