create unique index events_position on events (position) where position is not null;
create index events_without_position on events (id) where position is null;
