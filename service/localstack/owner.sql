-- The owner of the tables in the embedded Postgres, made by its superuser. It may make roles and databases, and is no
-- superuser: it reads no file of the machine and starts no program. Its password comes as a setting of the session,
-- since DDL takes no parameters.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'credentials_owner') THEN
        CREATE ROLE credentials_owner;
    END IF;
    EXECUTE format('ALTER ROLE credentials_owner LOGIN NOSUPERUSER CREATEROLE CREATEDB PASSWORD %L',
                   current_setting('local_stack.owner_password'));
END
$$;
-- Dropping a database in use ends whatever is in it, autovacuum too; looking for secrets on disk wants all written out.
GRANT pg_signal_backend, pg_checkpoint TO credentials_owner;
-- From PostgreSQL 16 on, whoever makes a role may give it to others but does not itself have what the role has. The
-- owner is to: it looks at what the logins that it made are doing. (PostgreSQL 15 doesn't know the setting.)
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 160000 THEN
        ALTER ROLE credentials_owner SET createrole_self_grant = 'set, inherit';
    END IF;
END
$$;
