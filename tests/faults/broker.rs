//! A broker that dies.

use crate::{
    common::{peers::mosquitto, process::free_port},
    line::{ALONE, BELT, Line},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_does_not_slow_the_line() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let Some(mut broker) = mosquitto(port, folder.path(), "allow_anonymous true") else { return };
    let rest = format!(
        "{BELT}\n[eject]\n[[eject.gate]]\nname = 'out'\ncamera = 'belt'\nactions = ['reject', 'divert']\n\
         speed = '1.25m/s'\nscale = '0.578mm/px'\ndistance = '900mm'\n\
         [[eject.output]]\nkind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\n\
         tolerance = '60ms'\non_late = 'alarm'\n"
    );
    let line = Line::start(folder, &rest, &[]);
    line.until_more("beltsight_eject_commands_total", "acknowledged", 5.0).await;
    let calm = line.spell().await;
    broker.kill();
    let down = line.spell().await;
    down.as_calm_as(&calm);
    let metrics = line.metrics().await;
    assert!(
        metrics.sum("beltsight_eject_commands_total", "failed")
            + metrics.sum("beltsight_eject_commands_total", "unacknowledged")
            > 20.0
    );
    assert_eq!(metrics.sum("beltsight_output_down", "mqtt"), 1.0);
    let late = line.end(&["eject_late"]).await.len();
    assert!(late > 20, "each late command stands in the record: {late}");
}
