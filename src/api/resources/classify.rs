//! `POST /classify`: a picture in, a verdict for each item out.
//!
//! Invariant: doubt is an answer, not an error: an item that can't be accepted gets a verdict that says so.

use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{Query, Request, State, rejection::QueryRejection},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::{
    api::{
        Api,
        error::{ApiError, Problem},
        http::body,
        input::query,
    },
    domain::{Raw, Region, Source, Timings, Verdict, ms},
    line::{
        locate,
        observe::{cleaned, faulted, observe},
        record::{RecordState, RecordTicket},
        verdict::{Origin, assemble},
    },
    picture::pixels::{self, PixelError, PixelLimits},
};

/// Most items judged in one picture; more are refused, because dropping some in silence would let them pass.
const MAX_ITEMS: usize = 32;
/// JPEG magic: such bodies are kept as they came.
const JPEG: [u8; 2] = [0xff, 0xd8];

/// How a picture is to be judged.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ClassifyQuery {
    /// Find several items in the picture and judge each; otherwise the picture as a whole is one item.
    locate: bool,
}

/// The answer: one verdict an item, empty when `locate` found none.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Classified)]
pub struct Classification {
    /// The model that judged, `name@hash-prefix`.
    pub model: String,
    /// One verdict an item.
    pub verdicts: Vec<ClassifiedItem>,
}

/// A verdict as it is answered; its `uid` finds it from the moment when it is recorded.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClassifiedItem {
    /// `recorded`: the store has it, under `id`. `queued`: it is written after this answer, which does not wait for the
    /// disk. `dropped`: it found no place in the queue, and the record has a gap.
    pub record: RecordState,
    /// The verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// A decoded upload, cut for the network.
struct PreparedPicture {
    items: Vec<(Option<Region>, Vec<u8>)>,
    raw: Raw,
    /// Bytes that came with it and do not belong to it.
    strays: usize,
    timings: Timings,
}

/// Judges the items of a picture.
#[utoipa::path(post, path = "/classify", params(ClassifyQuery), tag = "classify",
    request_body(content((Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"),
        (Vec<u8> = "multipart/form-data")), description = "A picture, or a form with one"),
    responses((status = 200, body = Classification), (status = 400, body = Problem), (status = 413, body = Problem),
        (status = 415, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem),
        (status = 503, body = Problem)))]
pub(in crate::api) async fn classify(
    State(api): State<Api>,
    asked: Result<Query<ClassifyQuery>, QueryRejection>,
    mut request: Request,
) -> Result<Json<Classification>, ApiError> {
    let arrived = Instant::now();
    let wall = OffsetDateTime::now_utc();
    let ClassifyQuery { locate } = query(asked)?;
    let permit = body::admit(&api, &mut request).await?;
    let bytes = body::picture(&api, request).await?;
    let side = api.infer.card().side;
    let prepared = api.0.decoders.run(permit.clone(), move || prepare(bytes, locate, side)).await??;

    cleaned(&api.metrics, Source::Http, "", prepared.strays);

    let deadline = arrived + api.0.settings.deadline;
    let fault = |fault| {
        faulted(&api.metrics, Source::Http, "", &fault);
        ApiError::Fault(fault)
    };
    let mut waiting = Vec::with_capacity(prepared.items.len());
    for (region, pixels) in prepared.items {
        waiting.push((region, api.infer.submit(pixels, Source::Http, deadline).map_err(fault)?));
    }
    let mut judged = Vec::with_capacity(waiting.len());
    for (region, answer) in waiting {
        let scored = answer.await.map_err(|_| ApiError::Internal("the inference worker is gone".into()))?;
        if let Err(e) = &scored.scores {
            return Err(fault(e.clone()));
        }
        let origin = Origin {
            source: Source::Http,
            camera: "".into(),
            track: 0,
            region,
            several: false,
            partial: false,
            wall,
            truth: None,
            optics: None,
        };
        let timings = Timings { total_ms: ms(arrived.elapsed()), ..prepared.timings };
        judged.push((api.recorder.in_lot(assemble(origin, &scored, timings)), scored.model));
    }
    let mut recording = Vec::with_capacity(judged.len());
    for (verdict, card) in judged {
        observe(&api.metrics, &verdict, None);
        let ticket = api.recorder.record(verdict.clone(), card, Some(prepared.raw.clone()));
        recording.push((verdict, ticket));
    }
    let answer = |(verdict, ticket): (Verdict, RecordTicket)| {
        let (record, id) = ticket.state();
        ClassifiedItem { record, verdict: Verdict { id: id.unwrap_or_default(), ..verdict } }
    };
    let verdicts: Vec<_> = recording.into_iter().map(answer).collect();
    let model = verdicts.first().map_or_else(|| api.infer.card().label.clone(), |item| item.verdict.model.clone());
    Ok(Json(Classification { model, verdicts }))
}

/// Decodes, finds the items and cuts each to `side × side`; runs on a decode thread.
fn prepare(bytes: Bytes, several: bool, side: u32) -> Result<PreparedPicture, PixelError> {
    let started = Instant::now();
    let (picture, strays) = pixels::decode_counted(&bytes, PixelLimits::default())?;
    let decoded = Instant::now();
    let regions = if several { locate::find(&picture).into_iter().map(Some).collect() } else { vec![None] };
    if regions.len() > MAX_ITEMS {
        let words = format!("{} items were found in the picture; at most {MAX_ITEMS} are judged", regions.len());
        return Err(PixelError::Unsupported(words));
    }
    let mut items = Vec::with_capacity(regions.len());
    for region in regions {
        let square = region.map(|r| pixels::square_around(r, pixels::CROP_MARGIN, picture.width, picture.height));
        items.push((region, pixels::fit(&picture, square, side)?));
    }
    let timings = Timings { decode_ms: ms(decoded - started), locate_ms: ms(decoded.elapsed()), ..Timings::default() };
    let raw = if bytes.starts_with(&JPEG) { Raw::Jpeg(bytes) } else { Raw::Rgb(Arc::new(picture)) };
    Ok(PreparedPicture { items, raw, strays, timings })
}
