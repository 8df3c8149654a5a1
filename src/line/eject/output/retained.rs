//! One retained message for a broker, over a connection of its own.

use rumqttc::{AsyncClient, Event, Outgoing, Packet, QoS};

use super::broker::Mqtt;

/// Packets that may wait for the connection: ours and the end.
const WAITING: usize = 4;

impl Mqtt {
    /// Refuses what has no meaning where a message is only left behind.
    ///
    /// # Errors
    /// Names the key.
    pub fn check_retained(&self) -> Result<(), String> {
        if self.speed.is_some() || self.lot.is_some() || self.sparkplug.is_some() {
            return Err("mqtt: speed, lot and sparkplug belong to [eject]".into());
        }
        self.check()
    }

    /// Leaves `message` on the topic, retained; returns when the broker has it. Whoever calls this says how long it may
    /// take.
    ///
    /// # Errors
    /// The client's words.
    pub async fn retain(&self, message: String) -> Result<(), String> {
        let (client, mut events) = AsyncClient::new(self.options()?, WAITING);
        client.try_publish(&self.topic, QoS::AtLeastOnce, true, message).map_err(|e| e.to_string())?;
        loop {
            match events.poll().await.map_err(|e| e.to_string())? {
                Event::Incoming(Packet::PubAck(_)) => client.try_disconnect().map_err(|e| e.to_string())?,
                Event::Outgoing(Outgoing::Disconnect) => return Ok(()),
                _ => {}
            }
        }
    }
}
