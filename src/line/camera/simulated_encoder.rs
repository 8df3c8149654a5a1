//! The encoder of a simulated belt: a Modbus TCP server with the belt's count and speed in its input registers, so that gates
//! that go by the belt's place can be tried without a PLC. It counts by this machine's clock, whatever the simulated camera's
//! clock shows.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use serde::Deserialize;
use tokio_modbus::{
    ExceptionCode, Request, Response,
    server::{Service, tcp::Server},
};
use tokio_util::sync::CancellationToken;

use super::Geometry;
use crate::belt::Belt;

/// Most connections at a time; one more is hung up.
const MOST: usize = 16;
/// The speed is that of so many seconds.
const SPEED_OVER: f64 = 0.01;

/// What the configuration says of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatedEncoder {
    /// Where it serves, `"127.0.0.1:1502"`.
    pub listen: SocketAddr,
    /// Counts per millimetre of the belt, below 0 where they fall while the belt runs forwards.
    #[serde(default = "ten")]
    pub counts_per_mm: f64,
    /// 16 or 32; the count goes round and round.
    #[serde(default = "thirty_two")]
    pub bits: u32,
    /// The input register of the count, of 32 bits the high word, and the next one the low word.
    #[serde(default)]
    pub count: u16,
    /// The input register of the speed in mm/s, signed.
    #[serde(default = "two")]
    pub speed: u16,
}

fn ten() -> f64 {
    10.0
}

fn thirty_two() -> u32 {
    32
}

fn two() -> u16 {
    2
}

impl SimulatedEncoder {
    /// Refuses what no register holds, and a belt whose pixels nobody has measured.
    pub(super) fn check(&self, geometry: &Geometry) -> Result<(), String> {
        let taken = |register: u16| {
            (u32::from(self.count)..u32::from(self.count) + self.words()).contains(&u32::from(register))
        };
        if geometry.scale.is_none() {
            return Err("encoder needs geometry.scale, which says what a pixel of the belt is".into());
        }
        if self.bits != 16 && self.bits != 32 {
            return Err("encoder.bits must be 16 or 32".into());
        }
        if !(1e-3..=1e3).contains(&self.counts_per_mm.abs()) {
            return Err("encoder.counts_per_mm must lie between 0.001 and 1000, either way".into());
        }
        if u32::from(self.count) + self.words() > 65_536 || taken(self.speed) {
            return Err("encoder.count and encoder.speed must be registers of their own".into());
        }
        Ok(())
    }

    fn words(&self) -> u32 {
        self.bits / 16
    }

    /// Serves until it is dropped, for a belt of which a pixel is `scale` mm and whose first picture was taken at `start`.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn serve(&self, belt: Belt, scale: f64, start: Instant) -> io::Result<ServingEncoder> {
        let listener = std::net::TcpListener::bind(self.listen)?;
        listener.set_nonblocking(true)?;
        let stop = CancellationToken::new();
        let (stopped, registers) = (stop.clone(), BeltRegisters { settings: self.clone(), belt, scale, start });
        let thread = thread::Builder::new().name("simulated-encoder".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(e) => return tracing::error!("the simulated encoder has no runtime: {e}"),
            };
            let registers = Arc::new(registers);
            let serving = async {
                let server = match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => Server::new(listener),
                    Err(e) => return tracing::error!("the simulated encoder can't listen: {e}"),
                };
                let connected = |stream: tokio::net::TcpStream, _| {
                    let registers = registers.clone(); // the thread's, this one, and one for each connection
                    async move {
                        stream.set_nodelay(true)?;
                        Ok::<_, io::Error>(
                            (Arc::strong_count(&registers) < MOST + 2).then_some((Shared(registers), stream)),
                        )
                    }
                };
                if let Err(e) = server.serve(&connected, |e| tracing::debug!("the simulated encoder: {e}")).await {
                    tracing::error!("the simulated encoder is gone: {e}");
                }
            };
            runtime.block_on(stopped.run_until_cancelled(serving));
            runtime.shutdown_background();
        })?;
        tracing::info!("the simulated belt's encoder listens on {}", self.listen);
        Ok(ServingEncoder { stop, thread: Some(thread) })
    }
}

/// A serving encoder.
pub(super) struct ServingEncoder {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Drop for ServingEncoder {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct BeltRegisters {
    settings: SimulatedEncoder,
    belt: Belt,
    scale: f64,
    start: Instant,
}

impl BeltRegisters {
    /// Millimetres that the belt has gone `time` seconds after the start.
    fn way(&self, time: f64) -> f64 {
        self.belt.travel(time) * self.scale
    }

    fn input(&self, register: u16, time: f64) -> Option<u16> {
        let SimulatedEncoder { count, speed, counts_per_mm, .. } = self.settings;
        if register == speed {
            let mm = self.way(time + SPEED_OVER / 2.0) - self.way(time - SPEED_OVER / 2.0);
            return Some(((mm / SPEED_OVER).round() as i16).cast_unsigned());
        }
        let place = register.checked_sub(count).filter(|place| u32::from(*place) < self.settings.words())?;
        let counted = (self.way(time) * counts_per_mm).floor() as i64;
        Some((counted >> (16 * (self.settings.words() as u16 - 1 - place))) as u16)
    }
}

/// One connection's share of the registers.
struct Shared(Arc<BeltRegisters>);

impl Service for Shared {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = std::future::Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        let time = self.0.start.elapsed().as_secs_f64();
        std::future::ready(match request {
            Request::ReadInputRegisters(first, amount) => {
                let registers = (0..amount).map(|n| self.0.input(first.checked_add(n)?, time));
                let read: Option<Vec<u16>> = registers.collect();
                read.map(Response::ReadInputRegisters).ok_or(ExceptionCode::IllegalDataAddress)
            }
            _ => Err(ExceptionCode::IllegalFunction),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio_modbus::client::{Context, Reader, tcp};

    use super::*;
    use crate::belt::BeltConfig;

    /// On a free port.
    fn settings(text: &str) -> SimulatedEncoder {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        toml::from_str(&format!("listen = '{free}'\n{text}")).unwrap()
    }

    async fn connected(encoder: &SimulatedEncoder) -> Context {
        tcp::attach(tokio::net::TcpStream::connect(encoder.listen).await.unwrap())
    }

    #[tokio::test]
    async fn it_counts_the_way_of_the_pictures_and_tells_their_speed_forwards_and_back() {
        let profile = vec![[0.0, 0.0], [0.2, 300.0], [0.6, 300.0], [1.0, -300.0]];
        let belt = || Belt::new(BeltConfig { profile: profile.clone(), ..BeltConfig::default() }).unwrap();
        let registers = "count = 7\nspeed = 9";
        for (text, bits) in [("bits = 16", 16), ("counts_per_mm = -100.0", 32)] {
            let (settings, start) = (settings(&format!("{registers}\n{text}")), Instant::now());
            let _serving = settings.serve(belt(), 2.0, start).unwrap();
            let (mut plc, belt) = (connected(&settings).await, belt());
            let mut speeds = Vec::new();
            while start.elapsed() < Duration::from_millis(1800) {
                let before = start.elapsed().as_secs_f64();
                let read = plc.read_input_registers(7, bits / 16).await.unwrap().unwrap();
                let after = start.elapsed().as_secs_f64();
                let raw = read.iter().fold(0u32, |raw, word| raw << 16 | u32::from(*word));
                let wanted = |time: f64| belt.travel(time) * 2.0 * settings.counts_per_mm;
                // Between the two moments, in the count's own range: it goes round below 0.
                let off = |time: f64| {
                    let off = (f64::from(raw) - wanted(time)).rem_euclid(f64::from(bits).exp2());
                    off.min(f64::from(bits).exp2() - off)
                };
                let moved = (wanted(after) - wanted(before)).abs();
                assert!(off(before).min(off(after)) <= moved + 1.5, "{raw} at {before}");
                speeds.push(plc.read_input_registers(9, 1).await.unwrap().unwrap()[0].cast_signed());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!((speeds.iter().max(), speeds.iter().min()), (Some(&600), Some(&-600)), "mm/s");
            assert!(plc.read_input_registers(8, 9).await.unwrap().is_err(), "no such registers");
            assert!(plc.read_holding_registers(7, 1).await.unwrap().is_err());
        }
    }

    #[tokio::test]
    async fn a_seventeenth_client_is_hung_up_and_a_port_in_use_is_said() {
        let (settings, belt) = (settings(""), || Belt::new(BeltConfig::default()).unwrap());
        let serving = settings.serve(belt(), 1.0, Instant::now()).unwrap();
        let mut clients = Vec::new();
        for _ in 0..MOST {
            let mut client = connected(&settings).await;
            assert!(client.read_input_registers(0, 2).await.is_ok());
            clients.push(client);
        }
        let mut one_more = connected(&settings).await;
        assert!(one_more.read_input_registers(0, 2).await.is_err());
        assert!(settings.serve(belt(), 1.0, Instant::now()).is_err());
        drop(serving);
    }

    #[test]
    fn settings_that_no_register_holds_are_refused_by_key() {
        let geometry = Geometry { scale: Some(1.0), ..Geometry::default() };
        let right = "count = 3\nspeed = 5";
        assert_eq!(settings(right).check(&geometry), Ok(()));
        assert!(settings(right).check(&Geometry::default()).unwrap_err().contains("geometry.scale"));
        for (wrong, why) in [
            (format!("{right}\nbits = 8"), "bits"),
            (format!("{right}\ncounts_per_mm = 0.0"), "counts_per_mm"),
            (right.replace('5', "4"), "encoder.speed"),
            (right.replace('3', "65535"), "encoder.count"),
        ] {
            assert!(settings(&wrong).check(&geometry).unwrap_err().contains(why), "{wrong}");
        }
    }
}
