//! Labels as Label Studio's JSON and as CSV. Pure.
//!
//! Invariant: what is exported and imported again is the same label; a row that can't be understood is an error that
//! names it, never passed over.

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    domain::time::rfc3339,
    store::{LabeledItem, VerdictName},
};

/// One label outside the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedLabel {
    /// The item's verdict: its uid, where the file says it, for an id means another item in another store.
    pub verdict: VerdictName,
    /// The class; `None` when the person could not tell.
    pub class: Option<String>,
    /// Who said it.
    pub by: String,
    /// When.
    pub at: OffsetDateTime,
}

/// A place in a file and what is wrong there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct FormatError {
    /// Line or task.
    pub place: String,
    /// What is wrong.
    pub why: String,
}

fn refuse(place: String, why: impl ToString) -> FormatError {
    FormatError { place, why: why.to_string() }
}

/// Tasks for Label Studio with one annotation per labeler; its labeling configuration is
/// `<View><Image name="image" value="$image"/><Choices name="class" toName="image">…</Choices></View>`. An annotation
/// that was cancelled (Label Studio's "skip") means that the labeler could not tell.
pub fn to_label_studio(items: &[LabeledItem], url: &str) -> Value {
    let choice = |class: &str| json!([{"from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": [class]}}]);
    let task = |LabeledItem { verdict, labels }: &LabeledItem| {
        let annotations: Vec<Value> = labels
            .iter()
            .map(|label| {
                json!({
                    "id": label.id,
                    "completed_by": {"email": label.by},
                    "created_at": rfc3339(label.at),
                    "was_cancelled": label.class.is_none(),
                    "result": label.class.as_deref().map_or(json!([]), choice),
                })
            })
            .collect();
        let predictions: Vec<Value> = verdict
            .scores
            .first()
            .map(|best| json!({"model_version": verdict.model, "score": best.probability, "result": choice(&best.class)}))
            .into_iter()
            .collect();
        json!({
            "id": verdict.id,
            "data": {"image": format!("{url}/items/{}.jpg", verdict.uid), "verdict": verdict.id, "uid": verdict.uid},
            "annotations": annotations,
            "predictions": predictions,
        })
    };
    items.iter().map(task).collect()
}

/// Reads what [`to_label_studio`] wrote or what Label Studio exports as JSON from such tasks.
///
/// # Errors
/// [`FormatError`], naming the task.
pub fn from_label_studio(json: &str) -> Result<Vec<ImportedLabel>, FormatError> {
    let tasks: Vec<Value> = serde_json::from_str(json).map_err(|e| refuse("the file".into(), e))?;
    let mut all = Vec::new();
    for (i, task) in tasks.iter().enumerate() {
        let place = || format!("task {}", i + 1);
        let data = &task["data"];
        let in_path = data["image"].as_str().and_then(|url| url.rsplit_once("/items/")?.1.strip_suffix(".jpg"));
        let named = data["uid"].as_str().or(in_path.filter(|_| data["verdict"].is_null()));
        let verdict = match (named.map(str::parse), data["verdict"].as_i64()) {
            (Some(Ok(name)), _) => name,
            (None, Some(id)) => VerdictName::Id(id),
            _ => {
                let why = "neither data.uid nor data.verdict names a verdict, and data.image does not end in /items/<uid>.jpg";
                return Err(refuse(place(), why));
            }
        };
        for annotation in task["annotations"].as_array().into_iter().flatten() {
            let by = &annotation["completed_by"];
            let by = [by, &by["email"], &by["id"]].into_iter().find_map(|name| match name {
                Value::String(name) => Some(name.clone()),
                Value::Number(id) => Some(id.to_string()),
                _ => None,
            });
            let by = by.filter(|b| !b.is_empty()).ok_or_else(|| refuse(place(), "completed_by names nobody"))?;
            let at = annotation["created_at"].as_str().unwrap_or_default();
            let at = OffsetDateTime::parse(at, &Rfc3339).map_err(|e| refuse(place(), format!("created_at: {e}")))?;
            let class = if annotation["was_cancelled"] == true {
                None
            } else {
                let results = annotation["result"].as_array().into_iter().flatten();
                let mut choices = results.filter_map(|r| r["value"]["choices"].as_array()).flatten();
                match (choices.next().and_then(Value::as_str), choices.next()) {
                    (Some(class), None) => Some(class.to_owned()),
                    _ => return Err(refuse(place(), "an annotation needs exactly one choice")),
                }
            };
            all.push(ImportedLabel { verdict, class, by, at });
        }
    }
    Ok(all)
}

/// The columns of [`to_csv`]; the first three are those of a data set's `photos.csv`.
const COLUMNS: [&str; 7] = ["file", "class", "split_group", "verdict", "by", "at", "uid"];

/// One row per label; `class` is empty where the labeler could not tell.
///
/// # Errors
/// None that a list in memory can cause.
pub fn to_csv(items: &[LabeledItem]) -> Result<String, csv::Error> {
    let mut rows = csv::Writer::from_writer(Vec::new());
    rows.write_record(COLUMNS)?;
    for LabeledItem { verdict, labels } in items {
        for label in labels {
            let (id, uid) = (verdict.id.to_string(), verdict.uid.to_string());
            let file = format!("items/{uid}.jpg");
            let class = label.class.as_deref().unwrap_or_default();
            rows.write_record([&file, class, &verdict.group(), &id, &label.by, &rfc3339(label.at), &uid])?;
        }
    }
    let bytes = rows.into_inner().map_err(|e| e.into_error())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads columns `uid` or `verdict`, `class`, `by` and `at` in any order; others are not looked at.
///
/// # Errors
/// [`FormatError`], naming the line.
pub fn from_csv(text: &str) -> Result<Vec<ImportedLabel>, FormatError> {
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let headers = rows.headers().map_err(|e| refuse("line 1".into(), e))?.clone();
    let column = |name: &str| {
        let place = headers.iter().position(|h| h.trim() == name);
        place.ok_or_else(|| refuse("line 1".into(), format!("there is no column `{name}`")))
    };
    let (uid, verdict) = (column("uid"), column("verdict"));
    let (class, by, at) = (column("class")?, column("by")?, column("at")?);
    if uid.is_err() {
        verdict.as_ref().map_err(|e| refuse(e.place.clone(), &e.why))?;
    }
    let mut all = Vec::new();
    for (i, row) in rows.records().enumerate() {
        let place = || format!("line {}", i + 2);
        let row = row.map_err(|e| refuse(place(), e))?;
        let cell = |column: usize| row.get(column).unwrap_or_default().trim();
        // A row of a file with both may lack the uid: an older version wrote it.
        let named = [&uid, &verdict].into_iter().flatten().map(|&column| cell(column)).find(|name| !name.is_empty());
        if cell(by).is_empty() {
            return Err(refuse(place(), "`by` is empty"));
        }
        all.push(ImportedLabel {
            verdict: named.unwrap_or_default().parse().map_err(|e| refuse(place(), format!("verdict: {e}")))?,
            class: Some(cell(class)).filter(|c| !c.is_empty()).map(str::to_owned),
            by: cell(by).to_owned(),
            at: OffsetDateTime::parse(cell(at), &Rfc3339).map_err(|e| refuse(place(), format!("at: {e}")))?,
        });
    }
    Ok(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_label_studio_itself_exports_is_read() {
        let json = r#"[{"id": 7, "data": {"image": "http://line:8080/items/2.jpg"}, "annotations": [
            {"id": 9, "completed_by": 3, "created_at": "2026-11-25T10:00:00.123456Z", "was_cancelled": false,
             "lead_time": 4.2, "result": [{"id": "x", "from_name": "class", "to_name": "image", "type": "choices",
             "origin": "manual", "value": {"choices": ["cod"]}}]},
            {"id": 10, "completed_by": {"id": 4, "email": "ben@line"}, "created_at": "2026-11-25T10:01:00Z",
             "was_cancelled": true, "result": []}], "predictions": []}]"#;
        let said = from_label_studio(json).unwrap();
        let short: Vec<_> = said.iter().map(|s| (s.verdict, s.class.as_deref(), s.by.as_str())).collect();
        let two = VerdictName::Id(2);
        assert_eq!(short, [(two, Some("cod"), "3"), (two, None, "ben@line")]);
        let two = json.replace(r#"["cod"]"#, r#"["cod", "bass"]"#);
        assert_eq!(from_label_studio(&two).unwrap_err().to_string(), "task 1: an annotation needs exactly one choice");
        let nowhere = json.replace("items/2", "things/2");
        assert!(from_label_studio(&nowhere).unwrap_err().to_string().starts_with("task 1: neither data.uid"));
        let uid = "019e0000-0000-7000-8000-000000000007";
        let by_uid = json.replace("items/2", &format!("items/{uid}"));
        assert_eq!(from_label_studio(&by_uid).unwrap()[0].verdict, VerdictName::Uid(uid.parse().unwrap()));
    }
}
