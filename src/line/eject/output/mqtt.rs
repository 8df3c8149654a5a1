//! MQTT 3.1.1: a message for each command, acknowledged by the broker (QoS 1).
//!
//! | topic | what | retained |
//! |---|---|---|
//! | `<topic>/eject/<gate>` | move this gate; `expires` says until when | no |
//! | `<topic>/stop_line`, `<topic>/divert` | stop the line; lead everything aside from now on | no |
//! | `<topic>/state` | `online` while the line is alive, else `offline_why`; how often the line was asked; the broker says `online: false` when we are gone | yes |
//!
//! With `sparkplug` the state is that of a Sparkplug B edge node instead: NBIRTH, NDATA, and NDEATH as last will.
//!
//! A gate with a `command` is moved by the other side, which answers on `<topic>/done/<gate>`; see `numbered`.
//!
//! It listens on `<topic>/confirm/<gate>`, where each message is an item that passed the sensor after the gate, and on
//! the topic `speed`, where each message is the belt's speed in m/s as text; retained messages are old and don't count.
//! A speed below 0 is that of a belt that runs backwards. On the topic `lot` each message, a retained one too, is the name of the lot on the belt; an empty one says none.
//!
//! The broker's acknowledgement says that it has the message, not that a gate moved: only a sensor after the gate does.
//!
//! A broker that hangs may hand a message on when it wakes: whoever moves the gate must drop what is past its `expires`.
//!
//! Invariants: each connection has a client of its own, so that nothing of a broken one is ever sent again, when it
//! would meet another item; a client that breaks over what a broker sends takes nothing else with it; a message that is
//! too large is skipped, and one that can't be skipped keeps the next connection from listening, not from commands.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rumqttc::{
    AsyncClient, ConnectionError, Event, MqttOptions, NetworkOptions, Outgoing, Packet, QoS, StateError, mqttbytes,
};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinHandle, time::interval};

use super::{
    EjectorCommand, LineAction, LineRequests, Outlet, OutputNotice, QUEUE,
    broker::{LARGEST, LARGEST_READ, Mqtt},
    sparkplug,
};

/// Shortest and longest pause before the next attempt to connect: every item until then is late.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// Most topics whose skipped messages are spoken of, once each.
const MOST_SAID: usize = 64;
/// A connection that ends sooner is a short one, and so many short ones after another are no accident.
const SHORT: (Duration, u32) = (Duration::from_secs(5), 3);

const LOOK: Duration = Duration::from_millis(100);

/// What waits for the broker's acknowledgement.
enum Delivery {
    Command(u64),
    /// One that the other side carries out by itself, and answers.
    Given(u64),
    Ask(LineAction, u64),
    State,
}

/// One connection, from the attempt to its end.
struct BrokerSession {
    client: AsyncClient,
    events: mpsc::Receiver<Result<Event, ConnectionError>>,
    poller: JoinHandle<()>,
    /// Since when, if it is.
    connected: Option<Instant>,
    /// It hears nothing: the session before this one ended over a message that can't be skipped.
    deaf: bool,
    /// Why the session before this one ended.
    before: String,
    /// Handed to the client, in its order, without a packet number yet.
    queued: VecDeque<Delivery>,
    /// By packet number.
    in_flight: HashMap<u16, Delivery>,
    /// A stop or a divert is on its way.
    asking: bool,
    /// Sparkplug: which birth this session is, whether its certificate is out, and the number of its last message.
    birth: u8,
    born: bool,
    seq: u8,
    /// Why the line is not alive, as it was last told.
    told: Option<Option<String>>,
}

impl BrokerSession {
    /// Connects after `pause`. Each topic in `skipped` had messages that were skipped.
    fn start(
        options: MqttOptions,
        pause: Duration,
        birth: u8,
        (before, deaf): (String, bool),
        skipped: Arc<Mutex<BTreeSet<String>>>,
    ) -> Self {
        let (client, mut loop_) = AsyncClient::new(options, QUEUE);
        let mut network = NetworkOptions::new();
        network.set_connection_timeout(1).set_tcp_nodelay(true);
        loop_.set_network_options(network);
        let (sender, events) = mpsc::channel(QUEUE);
        let poller = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            loop {
                let event = loop_.poll().await;
                // Here and not at the other end of the channel, which would hold many such messages.
                if event.as_ref().is_ok_and(|event| skips(event, &skipped)) {
                    continue;
                }
                let over = event.is_err();
                if sender.send(event).await.is_err() || over {
                    return;
                }
            }
        });
        let (queued, in_flight) = (VecDeque::new(), HashMap::new());
        Self {
            client,
            events,
            poller,
            connected: None,
            deaf,
            before,
            queued,
            in_flight,
            asking: false,
            birth,
            born: false,
            seq: 0,
            told: None,
        }
    }

    fn publish(&mut self, sent: Delivery, topic: String, retain: bool, payload: String) -> Result<(), String> {
        self.publish_at(QoS::AtLeastOnce, sent, topic, retain, payload.into())
    }

    fn publish_at(
        &mut self,
        qos: QoS,
        sent: Delivery,
        topic: String,
        retain: bool,
        payload: Vec<u8>,
    ) -> Result<(), String> {
        if self.connected.is_none() {
            return Err(format!("the broker is not connected: {}", self.before));
        }
        self.client.try_publish(topic, qos, retain, payload).map_err(|e| e.to_string())?;
        self.queued.push_back(sent);
        Ok(())
    }
}

impl Drop for BrokerSession {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

/// Whether it is a message that is too large for us: said once for each topic, and passed over.
fn skips(event: &Event, skipped: &Mutex<BTreeSet<String>>) -> bool {
    let Event::Incoming(Packet::Publish(message)) = event else { return false };
    let size = message.payload.len();
    if size > LARGEST {
        let mut skipped = skipped.lock().unwrap_or_else(PoisonError::into_inner);
        if skipped.len() < MOST_SAID && skipped.insert(message.topic.clone()) {
            tracing::error!("a message of {size} bytes on {} is skipped, as are others above {LARGEST}", message.topic);
        }
    }
    size > LARGEST
}

/// What is known from one connection to the next.
struct Broker {
    settings: Mqtt,
    options: MqttOptions,
    pause: Duration,
    birth: u8,
    /// Why the last session ended, and whether over a message that can't be skipped.
    before: (String, bool),
    /// Short sessions, one after another.
    short: u32,
    skipped: Arc<Mutex<BTreeSet<String>>>,
}

/// Runs until the commands' sender is gone.
pub(super) async fn run(
    settings: Mqtt,
    options: MqttOptions,
    mut outlet: Outlet,
    mut commands: mpsc::Receiver<EjectorCommand>,
) {
    let (pause, birth, before, short) = (Duration::ZERO, 0, ("no answer yet".to_owned(), false), 0);
    let mut broker = Broker { settings, options, pause, birth, before, short, skipped: Arc::default() };
    let watcher = outlet.clone();
    while watcher.broke(broker.serve(&mut outlet, &mut commands)).await {}
}

impl Broker {
    async fn serve(&mut self, outlet: &mut Outlet, commands: &mut mpsc::Receiver<EjectorCommand>) {
        loop {
            let mut options = self.options.clone();
            options.set_last_will(self.settings.will(self.birth));
            let before = self.before.clone();
            let mut session = BrokerSession::start(options, self.pause, self.birth, before, self.skipped.clone());
            self.birth = self.birth.wrapping_add(1);
            let Some(why) = talk(&self.settings, outlet, commands, &mut session).await else { return };
            self.lost(outlet, &session, &why);
            let sent = session.queued.drain(..).chain(session.in_flight.drain().map(|(_, sent)| sent));
            for sent in sent {
                if let Delivery::Command(id) | Delivery::Given(id) = sent {
                    outlet.report(id, Err(format!("the broker was lost: {}", self.before.0)));
                }
            }
        }
    }

    /// A session has ended, or did not begin.
    fn lost(&mut self, outlet: &Outlet, session: &BrokerSession, why: &ConnectionError) {
        let (host, client) = (&self.settings.host, self.options.client_id());
        let said = why.to_string();
        let Some(since) = session.connected else {
            self.pause = (self.pause * 2).clamp(PAUSES[0], PAUSES[1]);
            if said != self.before.0 {
                // Said once, not at every attempt.
                tracing::warn!("the broker {host} can't be connected: {said}");
                outlet.connected(false);
            }
            return self.before.0 = said;
        };
        let short = since.elapsed() < SHORT.0;
        // Two that throw each other out would do so all the time.
        self.pause = if short { (self.pause * 2).clamp(PAUSES[0], PAUSES[1]) } else { PAUSES[0] };
        let deaf = matches!(
            why,
            ConnectionError::MqttState(StateError::Deserialization(mqttbytes::Error::PayloadSizeLimitExceeded(_)))
        );
        tracing::warn!("connection to the broker {host} lost: {said}");
        if deaf {
            tracing::error!(
                "a message above {LARGEST_READ} bytes: speed, lot and sensors are not heard from {host} until it is gone and the connection made anew"
            );
        }
        self.short = if short && !deaf { self.short + 1 } else { 0 };
        if self.short == SHORT.1 {
            tracing::error!(
                "the broker {host} takes us and soon ends the connection, again and again: another client may have the name {client:?}, so that each takes the other's session over; every client needs a name of its own"
            );
        }
        outlet.lost();
        self.before = (said, deaf);
    }
}

/// Passes everything on until the connection ends; why it did, or `None` when the service stops and the broker has all
/// that it was sent.
async fn talk(
    settings: &Mqtt,
    outlet: &mut Outlet,
    commands: &mut mpsc::Receiver<EjectorCommand>,
    session: &mut BrokerSession,
) -> Option<ConnectionError> {
    let mut closing = false;
    let mut look = interval(LOOK);
    loop {
        let owed = outlet.open().is_some() || !session.queued.is_empty() || !session.in_flight.is_empty();
        if closing && !(session.connected.is_some() && owed) {
            return None;
        }
        tokio::select! {
            biased;
            event = session.events.recv() => match event {
                None => return Some(ConnectionError::Io(io::Error::other("the client broke"))),
                Some(Err(e)) => return Some(e),
                Some(Ok(event)) => happened(settings, outlet, session, &event),
            },
            changed = outlet.requests.changed() => {
                changed.ok()?;
                outlet.requests.borrow_and_update();
                ask_line(settings, outlet, session);
            }
            () = outlet.alive.stopped(), if session.told == Some(None) => tell_state(settings, outlet, session),
            _ = look.tick(), if session.told.is_some() => {
                if session.told != Some(outlet.alive.why_not()) {
                    tell_state(settings, outlet, session);
                }
            }
            command = commands.recv(), if !closing => match command {
                Some(command) => if let Err(why) = fire(settings, outlet, session, &command) {
                    outlet.report(command.id, Err(why));
                },
                None => closing = true,
            }
        }
    }
}

fn happened(settings: &Mqtt, outlet: &mut Outlet, session: &mut BrokerSession, event: &Event) {
    match event {
        Event::Incoming(Packet::ConnAck(_)) => {
            tracing::info!("connected to the broker {}", settings.host);
            session.connected = Some(Instant::now());
            outlet.connected(true);
            listen(settings, outlet, session);
            tell_state(settings, outlet, session); // a birth, with Sparkplug
            ask_line(settings, outlet, session);
        }
        Event::Incoming(Packet::Publish(message)) if Some(&message.topic) == settings.lot.as_ref() => {
            match std::str::from_utf8(&message.payload) {
                Ok(name) => (outlet.notify)(OutputNotice::Lot { name: name.trim().to_owned(), by: "mqtt" }),
                Err(e) => tracing::error!("{}: the lot's name is not text: {e}", message.topic),
            }
        }
        Event::Incoming(Packet::Publish(message)) if outlet.answered(&settings.topic, message) => {}
        Event::Incoming(Packet::Publish(message)) if !message.retain => {
            heard(settings, outlet, session, &message.topic, &message.payload)
        }
        Event::Outgoing(Outgoing::Publish(packet)) => {
            // A packet without a number is acknowledged by nobody.
            if let Some(sent) = session.queued.pop_front().filter(|_| *packet != 0) {
                session.in_flight.insert(*packet, sent);
            }
        }
        Event::Incoming(Packet::PubAck(ack)) => {
            match session.in_flight.remove(&ack.pkid) {
                Some(Delivery::Command(id)) => outlet.report(id, Ok(())),
                Some(Delivery::Ask(action, upto)) => {
                    session.asking = false;
                    outlet.acknowledge(action, upto);
                    tell_state(settings, outlet, session);
                }
                Some(Delivery::Given(_) | Delivery::State) | None => {}
            }
            ask_line(settings, outlet, session);
        }
        _ => {}
    }
}

fn listen(settings: &Mqtt, outlet: &Outlet, session: &mut BrokerSession) {
    if session.deaf {
        return;
    }
    let confirm = (!outlet.sensed.is_empty()).then(|| format!("{}/confirm/+", settings.topic));
    let done = (!outlet.given.is_empty()).then(|| format!("{}/done/+", settings.topic));
    let command = settings.sparkplug.as_ref().map(|node| node.topic("NCMD"));
    for topic in confirm.iter().chain(&done).chain(&command).chain(&settings.speed).chain(&settings.lot) {
        if let Err(e) = session.client.try_subscribe(topic, QoS::AtLeastOnce) {
            tracing::error!("nothing is heard on {topic}: {e}");
        }
    }
}

fn heard(settings: &Mqtt, outlet: &Outlet, session: &mut BrokerSession, topic: &str, payload: &[u8]) {
    let at = Instant::now();
    if Some(topic) == settings.speed.as_deref() {
        let speed = std::str::from_utf8(payload).ok().and_then(|text| text.trim().parse().ok());
        return (outlet.notify)(OutputNotice::Speed { metres_per_second: speed.unwrap_or(f64::NAN), at });
    }
    if settings.sparkplug.as_ref().is_some_and(|node| node.topic("NCMD") == topic) {
        if sparkplug::asks_rebirth(payload) {
            session.born = false;
            tell_state(settings, outlet, session);
        }
        return;
    }
    let rest = topic.strip_prefix(settings.topic.as_str());
    if let Some(gate) = rest.and_then(|rest| rest.strip_prefix("/confirm/")) {
        (outlet.notify)(OutputNotice::Pulse { gate: gate.into(), at });
    }
}

fn fire(
    settings: &Mqtt,
    outlet: &mut Outlet,
    session: &mut BrokerSession,
    command: &EjectorCommand,
) -> Result<(), String> {
    let mut message = outlet.message(command)?;
    if let Some(target) = command.count {
        message["number"] = outlet.numbered(command, target).into();
        message["target"] = target.into();
    }
    let sent = command.count.map_or(Delivery::Command(command.id), |_| Delivery::Given(command.id));
    session.publish(sent, format!("{}/eject/{}", settings.topic, command.subject.gate), false, message.to_string())
}

fn ask_line(settings: &Mqtt, outlet: &mut Outlet, session: &mut BrokerSession) {
    let Some((action, upto)) = outlet.open() else { return };
    if session.asking {
        return;
    }
    let mut payload = json!({ "times": upto, "why": outlet.requests.borrow().why });
    if let Some(seconds) = outlet.flush_seconds(action, upto) {
        payload["flush_s"] = seconds.into();
    }
    let topic = format!("{}/{}", settings.topic, action.name());
    match session.publish(Delivery::Ask(action, upto), topic, false, payload.to_string()) {
        Ok(()) => session.asking = true,
        Err(why) => tracing::error!("{} is not asked yet: {why}", action.name()), // again with the next answer
    }
}

fn tell_state(settings: &Mqtt, outlet: &Outlet, session: &mut BrokerSession) {
    let requests = outlet.requests.borrow().clone();
    let why_not = outlet.alive.why_not();
    session.told = Some(why_not.clone());
    if let Some(node) = &settings.sparkplug {
        session.seq = if session.born { session.seq.wrapping_add(1) } else { 0 };
        let (kind, payload) = match std::mem::replace(&mut session.born, true) {
            false => ("NBIRTH", sparkplug::birth(session.birth, &requests, why_not)),
            true => ("NDATA", sparkplug::data(session.seq, &requests, why_not)),
        };
        if let Err(why) = session.publish_at(QoS::AtMostOnce, Delivery::State, node.topic(kind), false, payload) {
            tracing::warn!("the line's state is not told: {why}");
        }
        return;
    }
    let LineRequests { stop, divert, why, .. } = requests;
    let mut state = json!({ "online": why_not.is_none(), "stops": stop, "diverts": divert, "why": why });
    if let Some(why) = why_not {
        state["offline_why"] = why.into();
    }
    let topic = format!("{}/state", settings.topic);
    if let Err(why) = session.publish(Delivery::State, topic, true, state.to_string()) {
        tracing::warn!("the line's state is not told: {why}");
    }
}
