//! A model folder that vanishes.

use crate::{
    common::{
        process::{beltsight, fails},
        served::{Served, configured, copy_shipped},
    },
    line::{ALONE, BELT, Line, SPELL, Spell},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_model_folder_that_vanishes_is_refused_in_words_and_the_loaded_one_goes_on() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    for name in ["belt-small", "two"] {
        copy_shipped(&models.join(name));
    }
    let line = Line::serve(folder, &models, BELT, &[]);
    line.until_more("beltsight_recorded_total", "", 5.0).await;
    let calm = line.spell().await;

    let file = |version: &str| models.join(version).join("student.int8.onnx");
    let kept = std::fs::read(file("two")).unwrap();
    let before = line.metrics().await;
    for version in ["belt-small", "two"] {
        std::fs::remove_file(file(version)).unwrap();
    }
    let load = async |version: &str| {
        let answer = line.service.post(&format!("/v2/repository/models/{version}/load"), "").await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for version in ["belt-small", "two"] {
        let (status, said) = load(version).await;
        assert!(status == 422 && said.contains("student.int8.onnx"), "{status} {said}");
    }
    let mut promote = beltsight();
    promote.args(["models", "--root"]).arg(&models).args(["promote", "two", "--by", "Ann", "--config"]);
    let said = fails(promote.arg(line.folder.path().join("beltsight.toml")));
    assert!(said.contains("student.int8.onnx"), "{said}");
    // Another service on the same models, as after a restart.
    let other = tempfile::tempdir().unwrap();
    let said = Served::start(&configured(other.path(), &models, "", ""), &[]).err().unwrap();
    assert!(said.contains("student.int8.onnx"), "{said}");

    tokio::time::sleep(SPELL).await;
    Spell::between(&before, &line.metrics().await).as_calm_as(&calm);
    std::fs::write(file("two"), kept).unwrap();
    let (status, said) = load("two").await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(line.end(&["gap"]).await, []);
}
