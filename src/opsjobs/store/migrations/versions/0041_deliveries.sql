-- The place of a committed event in the stream: 1, 2, 3 … without a gap. One process at a time
-- assigns it. Ids are no such order: they are taken before the commit, which may come late.
alter table events add column position bigint;

-- One row: the last position assigned, and the last one deleted.
create table event_positions (
  single boolean primary key default true check (single),
  last bigint not null default 0,
  deleted bigint not null default 0,
  check (deleted <= last)
);
insert into event_positions default values;

-- Where messages come from: how far each source has been read.
create table delivery_sources (
  name text primary key,
  position bigint not null
);

-- Where they go: a webhook, the audit service. failing_since: the first failure since the last
-- success.
create table delivery_receivers (
  id bigint generated always as identity primary key,
  destination text not null,
  key text not null,
  failures integer not null default 0 check (failures >= 0),
  failing_since timestamptz,
  unique (destination, key),
  check ((failures = 0) = (failing_since is null))
);

-- A message is stored once, however many receivers it has.
create table delivery_messages (
  id bigint generated always as identity primary key,
  source text not null,
  message_id text not null,
  type text not null,
  body json not null,
  at timestamptz not null,
  created_at timestamptz not null default opsjobs_now(),
  unique (source, message_id)
);
create index delivery_messages_age on delivery_messages (created_at);

create table deliveries (
  id bigint generated always as identity primary key,
  receiver_id bigint not null references delivery_receivers on delete cascade,
  message_id bigint not null references delivery_messages on delete cascade,
  subject text not null,
  status text not null default 'pending'
    check (status in ('pending', 'delivered', 'failed', 'cancelled')),
  redelivery boolean not null default false,
  attempts integer not null default 0,
  response_code integer,
  response text,
  error text,
  duration_ms integer,
  created_at timestamptz not null default opsjobs_now(),
  attempted_at timestamptz,
  finished_at timestamptz,
  check ((status = 'pending') = (finished_at is null))
);
create unique index deliveries_once on deliveries (message_id, receiver_id) where not redelivery;
create index deliveries_pending on deliveries (receiver_id, subject, id) where status = 'pending';
create index deliveries_of_receiver on deliveries (receiver_id, id);

-- The pending deliveries of one subject to one receiver, which are sent in order. Exists while
-- there are any. claim: the fence of who sends them now, up to lease_until.
create table delivery_lanes (
  receiver_id bigint not null references delivery_receivers on delete cascade,
  subject text not null,
  due_at timestamptz not null default opsjobs_now(),
  lease_until timestamptz,
  claim bigint not null default 0,
  primary key (receiver_id, subject)
) with (fillfactor = 70);
create index delivery_lanes_due on delivery_lanes (receiver_id, due_at);
