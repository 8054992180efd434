-- Which executions bring an uploaded file: asked of each file that is old enough to go. Of executions without transfers nothing is
-- kept here, and a launch of one costs nothing more.
create index execution_specs_transfers on execution_specs using gin (actions jsonb_path_ops)
  where actions @> '[{"type": "file_transfer"}]';
