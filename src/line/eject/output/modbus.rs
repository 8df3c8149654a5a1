//! Modbus TCP: coils and registers of a PLC. Everything written is read back.
//!
//! Two connections: commands, stops and coils go over one; heartbeats, speed, lot, sensors and what the PLC says of commands
//! that it carries out by itself over the other, so that no command waits for their answers.
//!
//! A heartbeat register counts up while all is well; the PLC stops the line when it stands still. It stands still when
//! this process dies, when the network does, while a stop is asked for that the PLC has not taken, and while the line is not
//! alive: then the register is read instead.
//!
//! Invariants: a connection whose answer did not come or made no sense is closed, so that no answer is ever taken for
//! another's; a raised coil is lowered again, after a broken connection too; a gate's register never keeps its value when a
//! command is written, also where an earlier run of this service left it. What the PLC carries out by itself stands in
//! `numbered`.

use std::{
    collections::BTreeMap,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at},
};
use tokio_modbus::{
    Slave,
    client::{Context, Reader, Writer, tcp},
};

use super::{EjectorCommand, LineAction, Outlet, OutputNotice, QUEUE, numbered::next_number, plc::Modbus};

mod given;
use given::PlcAnswer;

/// Longest pause between two attempts to connect: every item until then is late.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// An answer that is too late for its command keeps the connection if it comes within this.
const PATIENCE: Duration = Duration::from_millis(100);
/// An answer to anything but a command may take this long.
const ANSWER: Duration = Duration::from_millis(250);

/// Why an exchange failed.
enum ExchangeError {
    /// The PLC refused; the connection is good.
    Refused(String),
    /// The connection is broken or doubtful.
    Lost(String),
}

/// What both connections know.
#[derive(Default)]
struct Both {
    /// A stop or a divert is asked for that the PLC has not taken.
    owed: AtomicBool,
    /// The connection that watches broke: that for commands, over which nothing may go for long, has broken too.
    broken: AtomicBool,
    /// The PLC owes answers about commands that it carries out by itself.
    owing: AtomicBool,
}

/// One of the two connections, and what is owed to the PLC over it.
struct Plc {
    settings: Modbus,
    outlet: Outlet,
    both: Arc<Both>,
    /// It watches; the other one carries the commands.
    watches: bool,
    context: Option<Context>,
    connect_at: Instant,
    pause: Duration,
    /// Raised coils and when each is to be lowered.
    raised: Vec<(Instant, u16)>,
    /// What each gate's register was last set to, and by which command.
    registers: BTreeMap<u16, (u64, u16)>,
    beats: u16,
    /// The heartbeat stands still, since the line is not alive.
    still: bool,
    /// The divert of a flush that is over was lowered.
    flushed: bool,
    /// The sensors: gate, input, and whether it was on at the last look.
    sensors: Vec<(Arc<str>, u16, bool)>,
}

/// Runs until the commands' sender is gone.
pub(super) async fn run(settings: Modbus, outlet: Outlet, mut commands: mpsc::Receiver<EjectorCommand>) {
    let sensors = outlet.sensed.iter().filter_map(|gate| Some((gate.gate.clone(), gate.input?, true))).collect();
    let (watcher, both) = (outlet.clone(), Arc::<Both>::default());
    // They outlive a panic: a raised coil stays owed.
    let (answered, mut answers) = mpsc::channel(QUEUE);
    let mut plc = Plc::new(settings.clone(), outlet.clone(), both.clone());
    let mut senses = Plc { watches: true, sensors, ..Plc::new(settings, outlet, both) };
    let mut serve = async |plc: &mut Plc, senses: &mut Plc, commands: &mut mpsc::Receiver<EjectorCommand>| {
        tokio::select! {
            biased;
            () = plc.serve(commands, &mut answers) => {}
            () = senses.watch(&answered) => {}
        }
    };
    while watcher.broke(serve(&mut plc, &mut senses, &mut commands)).await {}
}

impl Plc {
    fn new(settings: Modbus, outlet: Outlet, both: Arc<Both>) -> Self {
        Self {
            settings,
            outlet,
            both,
            watches: false,
            context: None,
            connect_at: Instant::now(),
            pause: Duration::ZERO,
            raised: Vec::new(),
            registers: BTreeMap::new(),
            beats: 0,
            still: false,
            flushed: false,
            sensors: Vec::new(),
        }
    }

    /// Heartbeats, and what the PLC tells; never ends.
    async fn watch(&mut self, answered: &mpsc::Sender<PlcAnswer>) {
        let mut beat = interval(self.settings.every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut poll = interval(self.settings.poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let polls = !self.sensors.is_empty() || !self.outlet.given.is_empty();
        loop {
            let connected = self.context.is_some();
            tokio::select! {
                biased;
                _ = beat.tick() => self.beat().await,
                _ = poll.tick(), if connected && polls => {
                    self.look().await;
                    self.ask_answers(answered).await;
                }
            }
        }
    }

    async fn serve(&mut self, commands: &mut mpsc::Receiver<EjectorCommand>, answers: &mut mpsc::Receiver<PlcAnswer>) {
        let mut look = interval(self.settings.every);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.both.owing.store(self.outlet.given.owes(), Ordering::Relaxed);
            let lower = self.raised.iter().map(|(at, _)| *at).min();
            let connected = self.context.is_some();
            tokio::select! {
                biased;
                changed = self.outlet.requests.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.ask_line().await;
                }
                command = commands.recv() => {
                    let Some(command) = command else { break };
                    if command.count.is_some() {
                        self.give(command).await;
                        continue;
                    }
                    let result = self.command(&command).await;
                    self.outlet.report(command.id, result);
                }
                Some(answer) = answers.recv() => self.answered(answer).await,
                () = sleep_until(lower.unwrap_or_else(Instant::now)), if lower.is_some() && connected => self.lower().await,
                _ = look.tick() => self.keep().await,
            }
        }
        self.ask_line().await;
        // No gate stays open behind us; `outputs` waits for this a moment.
        while let Some(lower) = self.raised.iter().map(|(at, _)| *at).min() {
            sleep_until(lower).await;
            self.lower().await;
        }
    }

    /// Keeps the connection for commands, so that none waits for one, and what was not taken asked for.
    async fn keep(&mut self) {
        if self.both.broken.swap(false, Ordering::Relaxed) {
            self.context = None;
            self.outlet.lost();
        }
        if self.context.is_none() {
            if Instant::now() < self.connect_at {
                return;
            }
            let Ok(context) = self.connect(Instant::now() + ANSWER).await else { return };
            self.context = Some(context);
        }
        self.ask_line().await;
        for (gate, _) in self.outlet.given.answer_in() {
            self.give_next(&gate).await; // whatever the PLC answers, or whether
        }
    }

    /// Moves a gate, trying again on a new connection until `give_up`.
    async fn command(&mut self, command: &EjectorCommand) -> Result<(), String> {
        let until = Instant::from_std(command.give_up);
        if Instant::now() > until {
            return Err("its moment had passed".into());
        }
        loop {
            let why = match self.fire(command, until).await {
                Ok(()) => return Ok(()),
                Err(ExchangeError::Refused(why)) => return Err(why),
                Err(ExchangeError::Lost(why)) => why,
            };
            let pause = Duration::from_millis(1);
            if Instant::now() + 2 * pause > until {
                return Err(why); // while that still counts as an answer
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn fire(&mut self, command: &EjectorCommand, until: Instant) -> Result<(), ExchangeError> {
        if let (Some(numbered), Some(target)) = (command.target.command, command.count) {
            let (registers, _) = numbered.modbus().map_err(ExchangeError::Refused)?;
            let number = self.next_value(registers[2], command.id, until).await?;
            let values = self.number(command, number, target);
            return self.set_registers(registers[0], values, until).await;
        }
        if let Some(register) = command.target.register {
            let value = self.next_value(register, command.id, until).await?;
            return self.set_register(register, value, until).await;
        }
        let Some(coil) = command.target.coil else { return Err(ExchangeError::Refused("the gate has no coil".into())) };
        let mut lower = Instant::now() + self.settings.pulse.max(command.hold);
        if let Some(place) = self.raised.iter().position(|(_, raised)| *raised == coil) {
            lower = lower.max(self.raised.swap_remove(place).0); // for the item before
        }
        // Owed from now on: a write whose answer is lost may have raised it all the same.
        self.raised.push((lower, coil));
        self.set_coil(coil, true, until).await
    }

    /// What to write into a gate's register: the PLC acts on each change, so it is another than what stands there, which
    /// an earlier run of this service may have left; a command that is tried again changes nothing more.
    async fn next_value(&mut self, register: u16, command: u64, until: Instant) -> Result<u16, ExchangeError> {
        let last = match self.registers.get(&register) {
            Some(&(id, value)) if id == command => return Ok(value),
            Some(&(_, value)) => value,
            None => self.read_register(register, until).await?,
        };
        let value = next_number(last);
        self.registers.insert(register, (command, value));
        Ok(value)
    }

    /// Lowers the coils whose time is over.
    async fn lower(&mut self) {
        let now = Instant::now();
        for (at, coil) in self.raised.clone() {
            if at > now {
                continue;
            }
            match self.set_coil(coil, false, now + ANSWER).await {
                Ok(()) => self.raised.retain(|(_, raised)| *raised != coil),
                Err(ExchangeError::Lost(why) | ExchangeError::Refused(why)) => {
                    tracing::error!("coil {coil} could not be lowered: {why}");
                    // Not at once again: commands come first.
                    self.raised.iter_mut().filter(|(_, c)| *c == coil).for_each(|(at, _)| *at = now + ANSWER);
                }
            }
        }
    }

    /// Passes on what is asked of the line and has not been acknowledged. While something is, the heart stands still.
    async fn ask_line(&mut self) {
        self.both.owed.store(self.outlet.open().is_some(), Ordering::Relaxed);
        while let Some((action, upto)) = self.outlet.open() {
            let coil = match action {
                LineAction::StopLine => self.settings.stop_line,
                LineAction::Divert => self.settings.divert,
            };
            let Some(coil) = coil else { return }; // never open
            match self.set_coil(coil, true, Instant::now() + ANSWER).await {
                Ok(()) => self.outlet.acknowledge(action, upto),
                Err(ExchangeError::Lost(why) | ExchangeError::Refused(why)) => {
                    tracing::error!("{} is not acknowledged: {why}", action.name());
                    return;
                }
            }
        }
        self.both.owed.store(false, Ordering::Relaxed);
        if self.outlet.flushed()
            && !self.flushed
            && let Some(coil) = self.settings.divert
        {
            self.flushed = self.set_coil(coil, false, Instant::now() + ANSWER).await.is_ok(); // else at the next look
        }
    }

    /// One heartbeat; connects where needed.
    async fn beat(&mut self) {
        if self.context.is_none() && Instant::now() < self.connect_at {
            return;
        }
        if self.both.owed.load(Ordering::Relaxed) {
            return;
        }
        let (register, until) = (self.settings.heartbeat, Instant::now() + ANSWER);
        let why_not = self.outlet.alive.why_not();
        let beaten = if why_not.is_some() {
            self.read_register(register, until).await.map(drop)
        } else {
            self.beats = self.beats.wrapping_add(1);
            self.set_register(register, self.beats, until).await
        };
        if let Err(ExchangeError::Refused(why)) = beaten {
            tracing::error!("the heartbeat was refused: {why}");
        }
        if why_not.is_some() != self.still {
            self.still = why_not.is_some();
            match why_not {
                Some(why) => tracing::warn!("the heartbeat stands still: {why}"),
                None => tracing::info!("the heart beats"),
            }
        }
        if let Some(speed) = self.read_input("belt's speed", self.settings.speed).await {
            let metres_per_second = f64::from(speed.cast_signed()) / 1e3;
            (self.outlet.notify)(OutputNotice::Speed { metres_per_second, at: std::time::Instant::now() });
        }
        if let Some(lot) = self.read_input("lot", self.settings.lot).await {
            let name = if lot == 0 { String::new() } else { lot.to_string() };
            (self.outlet.notify)(OutputNotice::Lot { name, by: "modbus" });
        }
    }

    /// What an input register holds. What can't be read is told by nobody: a speed counts no more after a while, a lot
    /// stays as it is.
    async fn read_input(&mut self, what: &str, register: Option<u16>) -> Option<u16> {
        self.read_inputs(what, register?, 1).await?.first().copied()
    }

    /// What so many input registers hold, where they can be read.
    async fn read_inputs(&mut self, what: &str, first: u16, count: u16) -> Option<Vec<u16>> {
        self.context.as_ref()?;
        let mut values = None;
        let read = self.exchange(Instant::now() + ANSWER, async |context| {
            let read = context.read_input_registers(first, count).await?;
            Ok(read.map(|read| {
                values = Some(read);
                true
            }))
        });
        if let Err(ExchangeError::Refused(why)) = read.await {
            tracing::error!("the {what} can't be read: {why}");
        }
        values
    }

    /// Looks at the sensors and tells where an item has come.
    async fn look(&mut self) {
        for i in 0..self.sensors.len() {
            let (gate, input, was) = self.sensors[i].clone();
            let mut is = None;
            let read = self.exchange(Instant::now() + ANSWER, async |context| {
                let read = context.read_discrete_inputs(input, 1).await?;
                Ok(read.map(|read| {
                    is = read.first().copied();
                    true
                }))
            });
            match read.await {
                Ok(()) => {}
                Err(ExchangeError::Refused(why)) => tracing::error!("the sensor of gate {gate} can't be read: {why}"),
                Err(ExchangeError::Lost(_)) => return,
            }
            let Some(is) = is else { continue };
            self.sensors[i].2 = is;
            if is && !was {
                (self.outlet.notify)(OutputNotice::Pulse { gate: gate.to_string(), at: std::time::Instant::now() });
            }
        }
    }

    async fn set_coil(&mut self, coil: u16, on: bool, until: Instant) -> Result<(), ExchangeError> {
        self.exchange(until, async move |context| {
            let written = context.write_single_coil(coil, on).await?;
            let read = context.read_coils(coil, 1).await?;
            Ok(written.and(read).map(|read| read.first() == Some(&on)))
        })
        .await
    }

    async fn read_register(&mut self, register: u16, until: Instant) -> Result<u16, ExchangeError> {
        let mut value = 0;
        let talk = async |context: &mut Context| {
            let read = context.read_holding_registers(register, 1).await?;
            Ok(read.map(|read| read.first().map(|read| value = *read).is_some()))
        };
        self.exchange(until, talk).await?;
        Ok(value)
    }

    async fn set_register(&mut self, register: u16, value: u16, until: Instant) -> Result<(), ExchangeError> {
        self.exchange(until, async move |context| {
            let written = context.write_single_register(register, value).await?;
            let read = context.read_holding_registers(register, 1).await?;
            Ok(written.and(read).map(|read| read.first() == Some(&value)))
        })
        .await
    }

    async fn set_registers(&mut self, first: u16, values: [u16; 3], until: Instant) -> Result<(), ExchangeError> {
        self.exchange(until, async move |context| {
            let written = context.write_multiple_registers(first, &values).await?;
            let read = context.read_holding_registers(first, 3).await?;
            Ok(written.and(read).map(|read| read == values))
        })
        .await
    }

    /// Writes and reads back; `talk` says whether what was read is what was written.
    async fn exchange(
        &mut self,
        until: Instant,
        talk: impl AsyncFnOnce(&mut Context) -> Result<Result<bool, tokio_modbus::ExceptionCode>, tokio_modbus::Error>,
    ) -> Result<(), ExchangeError> {
        let mut context = match self.context.take() {
            Some(context) => context,
            None => self.connect(until).await.map_err(ExchangeError::Lost)?,
        };
        let sent = Instant::now();
        let answer = {
            let mut talk = pin!(talk(&mut context));
            match timeout_at(until, &mut talk).await {
                Ok(answer) => Ok(answer),
                // Whoever asked knows by now that it is late. The next one finds a connection if this is only slow.
                Err(_) => timeout_at(sent + PATIENCE, talk).await,
            }
        };
        let why = match answer {
            Ok(Ok(answer)) => {
                self.context = Some(context);
                return match answer {
                    _ if Instant::now() > until => Err(ExchangeError::Refused("the PLC answered too late".into())),
                    Ok(true) => Ok(()),
                    Ok(false) => Err(ExchangeError::Refused("what was read back is not what was written".into())),
                    Err(code) => Err(ExchangeError::Refused(format!("the PLC answers {code}"))),
                };
            }
            Ok(Err(e)) => e.to_string(),
            Err(_) => "the PLC does not answer".into(),
        };
        tracing::warn!("connection to {} lost: {why}", self.settings.address);
        if self.watches {
            self.both.broken.store(true, Ordering::Relaxed);
        } else {
            self.outlet.lost();
        }
        Err(ExchangeError::Lost(why))
    }

    async fn connect(&mut self, until: Instant) -> Result<Context, String> {
        let opened = async {
            let stream = TcpStream::connect(&self.settings.address).await?;
            stream.set_nodelay(true)?; // a command must not wait for another to fill its packet
            Ok::<_, io::Error>(stream)
        };
        let why = match timeout_at(until, opened).await {
            Ok(Ok(stream)) => {
                tracing::info!("connected to {}", self.settings.address);
                self.pause = Duration::ZERO;
                if !self.watches {
                    self.outlet.connected(true);
                }
                return Ok(tcp::attach_slave(stream, Slave(self.settings.unit)));
            }
            Ok(Err(e)) => e.to_string(),
            Err(_) => "no answer".into(),
        };
        self.pause = (self.pause * 2).max(self.settings.every).min(LONGEST_PAUSE); // `every` may be the longer one
        self.connect_at = Instant::now() + self.pause;
        Err(format!("{} can't be connected: {why}", self.settings.address))
    }
}
