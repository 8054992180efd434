-- Output without what differs on every machine: its own name and host become @, numbers, hex, times
-- and days become #, spaces become one. Bytes are read as Latin-1, which has a character for each;
-- a NUL byte, which text cannot hold, becomes a space.
create function opsjobs_generalize(output bytea, name text, host text) returns text
  language sql immutable parallel safe as $$
  select regexp_replace(regexp_replace(
    replace(replace(convert_from(case when position('\x00'::bytea in output) = 0 then output
        else decode(replace(encode(output, 'escape'), '\000', '\040'), 'escape') end, 'LATIN1'),
      convert_from(convert_to(name, 'UTF8'), 'LATIN1'), '@'),
      convert_from(convert_to(host, 'UTF8'), 'LATIN1'), '@'),
    '\m(0x)?[0-9a-fA-F]*[0-9][0-9a-fA-F]*\M|[0-9]+|\m(Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\M',
    '#', 'g'), '[ \t]+', ' ', 'g') $$;
