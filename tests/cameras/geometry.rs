//! `beltsight serve` with a camera that looks at its belt from the side, and at a part of it.

use std::time::Duration;

use beltsight::{
    belt::{Belt, BeltConfig},
    domain::Region,
    line::{geometry::Rotation, locate},
    picture::pixels,
    store::{Page, Store},
};

use crate::{service::serve, watched::PATIENCE};

/// Pixels that two regions share, over those of both.
fn overlap(a: Region, b: Region) -> f64 {
    let span = |a: u32, al: u32, b: u32, bl: u32| (a + al).min(b + bl).saturating_sub(a.max(b));
    let both = f64::from(span(a.x, a.width, b.x, b.width) * span(a.y, a.height, b.y, b.height));
    both / (f64::from(a.width * a.height + b.width * b.height) - both)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_turned_and_cut_and_what_is_told_and_kept_is_the_turned_one_whole() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    let config = BeltConfig { width: 320, height: 180, speed: 200.0, frame_rate: 20.0, ..BeltConfig::default() };
    let mut belt = Belt::new(BeltConfig { items_per_minute: 60.0, empty_share: 0.0, ..config }).unwrap();
    let sideways = Rotation::try_from(270).unwrap();
    for n in 0..200 {
        let jpeg = pixels::encode_jpeg(&sideways.turn(&belt.frame(100 + n).0), 95).unwrap();
        std::fs::write(pictures.join(format!("{n:04}.jpg")), jpeg).unwrap();
    }
    let camera = format!(
        "[record]\nkeep_share = 1.0\n[[camera]]\nname = 'line-1'\nsource = 'folder'\npath = '{}'\nframe_rate = 20.0\n\
         region = [0.2, 0.0, 0.7, 1.0]\nmasks = [[0.0, 0.0, 1.0, 0.1]]\n\
         [camera.geometry]\nrotation = 90\ndirection = 'right'\n[camera.locate]\nmin_area = 0.005\n",
        pictures.display()
    );
    let mut service = serve(folder.path(), &camera);
    let verdicts = "beltsight_recorded_total";
    tokio::time::timeout(PATIENCE, service.until(verdicts, |verdicts| verdicts >= 6.0)).await.unwrap();
    let live = service.ask("/live.jpg").await.bytes().await.unwrap();
    let live = pixels::decode(&live, pixels::PixelLimits::default()).unwrap();
    assert_eq!((live.width, live.height), (320, 180));
    let dark = |x: u32, y: u32| live.at(x, y).iter().map(|value| u32::from(*value)).sum::<u32>();
    assert!(3 * dark(20, 60) < 2 * dark(160, 30), "what is not searched is shown darker");
    tokio::time::sleep(Duration::from_millis(200)).await;
    service.stop();
    let store = Store::open(&folder.path().join("data")).await.unwrap();
    let found = store.verdicts(Page { limit: 100, ..Page::default() }).await.unwrap();
    assert!(found.len() >= 6);
    for verdict in found {
        let region = verdict.region.unwrap();
        assert!(region.x >= 64 && region.x + region.width <= 288 && region.y >= 16, "{region:?}");
        let jpeg = store.frame(verdict.frame.as_deref().unwrap()).await.unwrap().unwrap();
        let kept = pixels::decode(&jpeg, pixels::PixelLimits::default()).unwrap();
        assert_eq!((kept.width, kept.height), (320, 180));
        // One that lay at the region's end in the first picture is told as far as it was seen.
        let lies = locate::find(&kept).into_iter().map(|item| overlap(item, region)).fold(0.0, f64::max);
        assert!(region.x + region.width == 288 || lies > 0.6, "{region:?}: {lies}");
    }
}
