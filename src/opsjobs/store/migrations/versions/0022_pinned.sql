-- What the machines of an execution were at its launch, by the position of their runs. Processes of the release before write and
-- read neither: what they launch is not held against anything.

-- target_versions: of each target the version that was judged, 4 bytes big endian. target_pins: of each a SHA-256 of where it is,
-- how it is reached and its labels, where people are asked about it. Both are read once an execution, with its spec.
alter table execution_specs
  add column target_versions bytea,
  add column target_pins bytea;
