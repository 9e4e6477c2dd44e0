//! For those who know Elixir's GenStage: its names and ours, and every difference that is deliberate.
//!
//! The reference is GenStage 1.3 as its code behaves. This module has no items.
//!
//! # Names
//!
//! | GenStage | here |
//! |---|---|
//! | a module with `use GenStage`, `init/1` answering `{:producer, state}` | a type that implements [`Producer`](crate::Producer), and a factory: [`Graph::producer`](crate::Graph::producer) |
//! | `{:producer_consumer, state}` | [`ProducerConsumer`](crate::ProducerConsumer), [`Graph::stage`](crate::Graph::stage) |
//! | `{:consumer, state}` | [`Consumer`](crate::Consumer), [`Graph::consumer`](crate::Graph::consumer) |
//! | `handle_demand/2`, `handle_events/3` | the same names; they emit through [`Cx`](crate::Cx) and answer `Ok(())` |
//! | `{:noreply, events, state}` | [`Cx::emit`](crate::Cx::emit), [`Cx::emit_all`](crate::Cx::emit_all); the state is `self` |
//! | `{:stop, reason, state}` | [`Cx::stop`](crate::Cx::stop); an `Err` or a panic for an abnormal reason |
//! | `handle_subscribe/4` answering `{:manual, state}` | `handle_subscribe` answering [`Mode::Manual`](crate::Mode::Manual) |
//! | `handle_cancel/3` with `{:cancel, reason}` or `{:down, reason}` | `handle_cancel` with [`EndCause`](crate::EndCause) |
//! | `handle_call/3`, `handle_cast/2`, `handle_info/2` | one [`Handle<M>`](crate::Handle) for each type of message |
//! | `format_discarded/2` | `handle_discarded` |
//! | `terminate/2` | `terminate` |
//! | `GenStage.call/3`, `cast/2` | [`StageRef::call`](crate::StageRef::call), [`cast`](crate::StageRef::cast) |
//! | `sync_info/3`, `async_info/2` | [`StageRef::info`](crate::StageRef::info) |
//! | `Process.send_after/3` | [`StageRef::send_after`](crate::StageRef::send_after), from a callback with [`Cx::stage_ref`](crate::Cx::stage_ref) |
//! | `ask/3` | [`Cx::ask`](crate::Cx::ask) |
//! | `cancel/3` | [`Cx::cancel`](crate::Cx::cancel), [`Running::cancel`](crate::Running::cancel) |
//! | `subscribe_to: [{producer, max_demand: 1000, min_demand: 500}]` | [`Stage::subscribe`](crate::Stage::subscribe)`(&producer, 500..1000)` |
//! | `sync_subscribe/3`, `async_subscribe/2` | [`Running::subscribe`](crate::Running::subscribe) |
//! | `sync_resubscribe/5`, `async_resubscribe/4` | [`Running::resubscribe`](crate::Running::resubscribe) |
//! | `cancel: :permanent`, `:transient`, `:temporary` | [`Cancel`](crate::Cancel), in [`SubscribeOptions`](crate::SubscribeOptions) |
//! | `buffer_size:`, `buffer_keep:` | [`Stage::buffer`](crate::Stage::buffer) |
//! | `demand: :accumulate`, `GenStage.demand(stage, :forward)` | [`Stage::accumulate`](crate::Stage::accumulate), [`StageRef::set_demand`](crate::StageRef::set_demand) |
//! | `estimate_buffered_count/2` | [`StageRef::estimate_buffered`](crate::StageRef::estimate_buffered) |
//! | `GenStage.from_enumerable/2` | [`Graph::iterate`](crate::Graph::iterate); what has to wait for its items is a [`Graph::stream`](crate::Graph::stream) |
//! | `on_cancel: :continue`, `:stop` | [`Stage::on_cancel`](crate::Stage::on_cancel), for every producer |
//! | `GenStage.stream/2` | [`SourceExt::events`](crate::SourceExt::events) |
//! | a consumer of one `handle_events/3` | a closure: [`each`](crate::each), [`each_batch`](crate::each_batch); between stages [`map`](crate::map), [`filter_map`](crate::filter_map), [`flat_map`](crate::flat_map) |
//! | the `QueueBroadcaster` of its documentation | [`stages::queue`](crate::stages::queue()), with `broadcast` |
//! | the `RateLimiter` of its documentation | [`stages::Rate`](crate::stages::Rate) |
//! | `dispatcher: GenStage.DemandDispatcher` | the default |
//! | a `Supervisor` of stages, `restart: :permanent`, `:transient`, `:temporary` | [`Stage::restart`](crate::Stage::restart) |
//! | `strategy:`, `max_restarts:`, `max_seconds:` | [`Graph::strategy`](crate::Graph::strategy), [`Graph::intensity`](crate::Graph::intensity); and [`Graph::backoff`](crate::Graph::backoff) |
//! | a module with `@behaviour GenStage.Dispatcher` | [`Dispatcher`](crate::Dispatcher), with [`Stage::dispatcher`](crate::Stage::dispatcher) |
//! | `ConsumerSupervisor` | [`Graph::tasks`](crate::Graph::tasks) |
//! | its child's `restart: :transient`, `shutdown:`; `max_restarts:`, `max_seconds:` | [`TaskOptions`](crate::TaskOptions), with [`Graph::tasks_with`](crate::Graph::tasks_with) |
//! | `ConsumerSupervisor.start_child/2`, `terminate_child/2`, `which_children/1`, `count_children/1` | the same names, on what [`StageRef::children`](crate::StageRef::children) answers |
//! | `DynamicSupervisor`, `Task.Supervisor` | [`TaskSupervisor`](crate::TaskSupervisor) |
//! | `Task.Supervisor.async_nolink/2`, `Task.await/2` | [`TaskSupervisor::start_task`](crate::TaskSupervisor::start_task), `.await` |
//! | `Process.flag(:trap_exit, true)` in a child | [`Stopping::current`](crate::Stopping::current) |
//! | `:brutal_kill`, `:infinity` | [`Shutdown::Kill`](crate::Shutdown::Kill), [`Shutdown::Unlimited`](crate::Shutdown::Unlimited) |
//!
//! # Differences
//!
//! | GenStage | here | why |
//! |---|---|---|
//! | a permanent consumer stops with its first exhausted producer | with its last | the end of one source must not cut another short |
//! | a process is started, and lives on | [`Graph::run`](crate::Graph::run) ends when everything is handled | to know when a finite pipeline is done is the question asked most |
//! | a dispatcher returns the demand to pass up from each callback | it says what it could assign now, and the stage does the account | demand cannot leak, whatever a dispatcher does |
//! | events for a consumer that has left wait in the buffer while newer ones overtake them | the buffer is always served first | order |
//! | events emitted while demand accumulates are held without bound, and not counted | they are in the buffer, by its rule | everything is bounded |
//! | `buffer_size: 0` crashes | keeps nothing | 0 is a number |
//! | a full buffer drops | drops, or fails the stage ([`Keep::Fail`](crate::Keep::Fail)) | some data must not be lost |
//! | a crash loses what the consumer was handling | on request it is handed back and redelivered: [`Stage::subscribe_acknowledged`](crate::Stage::subscribe_acknowledged) | at least once |
//! | an exit propagates to everybody linked | a failure names the stage where it began, once | one cause is one cause |
//! | one crash counts once for each stage that falls with it | counts once | the cause is one, and the bound on restarts is for causes |
//! | a consumer that outlives its producer must subscribe to the next one itself | declared subscriptions are made again | the graph knows them |
//! | asks are messages that add up | asks are cumulative | a repeated or overtaken ask does no harm, which matters between machines |
//! | each ask is a call of `handle_demand/2` | asks that wait for a busy producer are one call for all of them, up to 1,000 events | a call costs more than a few events |
//! | events of an unknown subscription are dropped and answered with a cancel | they are dropped and counted; an ask of one is ignored | whoever sends them was told of the end |
//! | `call` may wait for ever | always has a timeout, 5 s by default, and fails fast while the stage drains | |
//! | `cast` fills the mailbox without bound | is refused beyond 1,024 waiting messages | everything is bounded |
//! | `handle_call` without a clause crashes the stage | does not compile | |
//! | `from_enumerable` blocks until it has all that was asked for | a stream's items leave when they are there, and its stage takes messages meanwhile | a slow source must not hold back what is there |
//! | a permanent `GenStage.stream` exits the process that reads when its producer ends | it ends after an exhausted producer, and gives an error as its last item after any other | a short result is never silent |
//! | dropping out of a `GenStage.stream` waits until the producers have answered | dropping it does not wait; what they send meanwhile goes to the next reader | a `Drop` cannot wait |
//! | a consumer supervisor whose children fail goes on, and that is all | it goes on, and [`Graph::run`](crate::Graph::run) fails in the end, unless failures are [tolerated](crate::TaskOptions::tolerate_failures) | an event that was not handled is work that was lost |
//! | a consumer supervisor with permanent children is refused at its start | cannot be written | a task that has done its event has nothing more to do |
//! | a supervisor with too many restarts exits with `:shutdown` | it fails, and so does the graph | the same |
//! | a child that does not trap exits dies as soon as it is told to end | has its shutdown time to finish what it is doing | the same |
//! | a consumer supervisor that stops as its producer is done ends its children | waits for them | the same |
//! | a child is a process | a future in a task that runs one child after the other: it is polled, dropped and waited for by itself, but `tokio::task::id` is not its own | an event costs no task of its own |
//! | `hibernate`, `code_change`, `format_status` | not there | nothing in Rust corresponds |
