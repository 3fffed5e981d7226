//! A network of hosts by turmoil: messages between them take their time, get lost or are held.
//!
//! Unlike the one in memory, it never sends anything again: what a partition swallowed is a hole, and
//! the connection behind it is silent for good.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use multidb::MultiDbClient;
use multidb::engine::backend::Wiring;
use multidb::engine::builder::Builder;
use multidb::redis::{Connector, Redis, RedisEndpoint, Transport};
use multidb::testing::server::{Server, Storage};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use turmoil::net::{TcpListener, TcpStream};

use crate::deaf::Deafener;
use crate::history::{Found, History};
use crate::plan::{Fault, Plan, ms};
use crate::scene::{World, live};

/// Lives through the disaster of a seed.
pub(crate) fn run(seed: u64) -> History {
    let plan = Plan::draw(seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(3600))
        .tick_duration(TICK)
        .min_message_latency(Duration::ZERO)
        .max_message_latency(USUAL_LATENCY)
        .build();
    let places: Vec<_> = plan.members.iter().map(|m| Place::new(m.name)).collect();
    for place in &places {
        let place = place.clone();
        sim.host(place.name, move || place.clone().serve());
    }
    let orders = Rc::new(RefCell::default());
    let world = Hosts {
        places,
        orders: Rc::clone(&orders),
        flapping: RefCell::default(),
    };
    let lived = Rc::new(RefCell::new(None));
    let history = Rc::clone(&lived);
    sim.client(APP, async move {
        history.replace(Some(live(plan, world).await));
        Ok(())
    });
    let mut ordered = Vec::new();
    loop {
        // What was ordered a step ago: a server that is to crash has ended its connections by then.
        for order in std::mem::replace(&mut ordered, orders.take()) {
            match order {
                Order::Crash(host) => sim.crash(host),
                Order::Bounce(host) => sim.bounce(host),
                Order::Latency(host, latency) => sim.set_link_latency(APP, host, latency),
            }
        }
        if sim.step().expect("the simulation goes on") {
            break;
        }
    }
    lived.take().expect("a history, once the client has ended")
}

/// The host that the client runs on.
const APP: &str = "app";
const TICK: Duration = Duration::from_millis(1);
const USUAL_LATENCY: Duration = Duration::from_millis(2);

/// What can be done to a host only from outside of the simulation.
enum Order {
    Crash(&'static str),
    Bounce(&'static str),
    Latency(&'static str, Duration),
}

struct Hosts {
    places: Vec<Place>,
    orders: Rc<RefCell<Vec<Order>>>,
    flapping: RefCell<Vec<(usize, JoinHandle<()>)>>,
}

/// A database and its host. The data outlives both.
#[derive(Clone)]
struct Place {
    name: &'static str,
    storage: Storage,
    server: Rc<RefCell<Option<Rc<Server>>>>,
    deafener: Deafener,
}

impl Place {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            storage: Storage::new(),
            server: Rc::default(),
            deafener: Deafener::default(),
        }
    }

    /// The life of a host, from its start to its crash.
    async fn serve(self) -> turmoil::Result {
        let server = Server::builder().storage(self.storage.clone()).in_memory();
        let endpoint = server.endpoint();
        self.server.replace(Some(Rc::new(server)));
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            endpoint.attach(stream);
        }
    }

    /// The runtime of a host that crashes drops its tasks in the order of their numbers, which count
    /// through all simulations of a process. So the connections are ended first, in an order of ours.
    fn crash(&self, orders: &RefCell<Vec<Order>>) {
        if let Some(server) = &*self.server.borrow() {
            server.kill();
        }
        orders.borrow_mut().push(Order::Crash(self.name));
    }
}

const PORT: u16 = 6379;

impl World for Hosts {
    fn builder(&self) -> Builder<Redis> {
        let deafeners = self.places.iter().map(|p| (p.name, p.deafener.clone()));
        MultiDbClient::builder().connector(Wires(deafeners.collect()))
    }

    fn break_it(&self, member: usize, fault: Fault) {
        let name = self.places[member].name;
        match fault {
            Fault::Kill => self.places[member].crash(&self.orders),
            Fault::Hang => self.server(member).hang(),
            Fault::Loading => self.server(member).loading(true),
            Fault::ReadOnly => self.server(member).read_only(true),
            Fault::OutOfMemory => self.server(member).out_of_memory(true),
            Fault::Misconf => {
                let refusal = Some("MISCONF Errors writing to the disk.");
                self.server(member).refuse_writes(refusal);
            }
            Fault::Partition => turmoil::partition(APP, name),
            Fault::LoseRequests => turmoil::partition_oneway(APP, name),
            Fault::LoseReplies => turmoil::partition_oneway(name, APP),
            Fault::Hold => turmoil::hold(APP, name),
            Fault::Slow(by) => self.order(Order::Latency(name, ms(by))),
            Fault::Reset => self.server(member).kill_connections(),
            Fault::CutReply(after) => self.server(member).cut_after(after),
            Fault::Deafen => self.places[member].deafener.deafen(),
            Fault::Flap => {
                let (place, orders) = (self.places[member].clone(), Rc::clone(&self.orders));
                let flapping = tokio::task::spawn_local(async move {
                    loop {
                        place.crash(&orders);
                        sleep(ms(70)).await;
                        orders.borrow_mut().push(Order::Bounce(name));
                        sleep(ms(130)).await;
                    }
                });
                self.flapping.borrow_mut().push((member, flapping));
            }
        }
    }

    fn mend(&self, member: usize, fault: Fault) {
        let name = self.places[member].name;
        match fault {
            Fault::Kill => self.order(Order::Bounce(name)),
            Fault::Hang => self.server(member).resume(),
            Fault::Loading => self.server(member).loading(false),
            Fault::ReadOnly => self.server(member).read_only(false),
            Fault::OutOfMemory => self.server(member).out_of_memory(false),
            Fault::Misconf => self.server(member).refuse_writes(None),
            Fault::Partition => turmoil::repair(APP, name),
            Fault::LoseRequests => turmoil::repair_oneway(APP, name),
            Fault::LoseReplies => turmoil::repair_oneway(name, APP),
            Fault::Hold => turmoil::release(APP, name),
            Fault::Slow(_) => self.order(Order::Latency(name, USUAL_LATENCY)),
            Fault::Flap => {
                self.flapping.borrow_mut().retain(|(flapping, task)| {
                    if *flapping == member {
                        task.abort();
                    }
                    *flapping != member
                });
                self.order(Order::Bounce(name));
            }
            Fault::Reset | Fault::CutReply(_) | Fault::Deafen => {}
        }
    }

    fn open(&self) -> usize {
        self.places.iter().map(|p| p.deafener.open()).sum()
    }

    /// A server that was cut off never hears of an end here: nothing is sent again.
    fn served(&self) -> usize {
        0
    }

    fn found(&self, member: usize) -> Found {
        Found::in_storage(&self.places[member].storage)
    }

    fn precision(&self) -> Duration {
        TICK * 2
    }
}

impl Hosts {
    fn order(&self, order: Order) {
        self.orders.borrow_mut().push(order);
    }

    /// The process that runs on a host now.
    fn server(&self, member: usize) -> Rc<Server> {
        let server = self.places[member].server.borrow();
        server.clone().expect("hosts start before the client does")
    }
}

struct Wires(Vec<(&'static str, Deafener)>);

impl Connector for Wires {
    fn connect<'a>(
        &'a self,
        endpoint: &'a RedisEndpoint,
        wiring: &'a Wiring,
    ) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        let host = endpoint.host().expect("a host");
        let port = endpoint.port().expect("a port");
        let deafener = self.0.iter().find(|(name, _)| *name == host);
        let (_, deafener) = deafener.expect("a member of the plan");
        async move {
            let stream = TcpStream::connect((host, port)).await?;
            Ok(deafener.over(stream, wiring))
        }
        .boxed()
    }
}
