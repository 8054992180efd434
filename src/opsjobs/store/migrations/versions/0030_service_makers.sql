-- Who registered a service or changed it last. answers_to: the user, the service or the platform's person behind that; the service
-- may no more than that one may now. Null: nobody is behind it, as of the installation's own key, or nobody noted who.
alter table service_clients add column made_by text;
alter table service_clients add column made_by_kind text;
alter table service_clients add column answers_to text;
alter table service_clients add column answers_to_kind text;
