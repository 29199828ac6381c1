-- Whoever makes the image's database is its superuser; the tables, and all that is in it, are to be the owner's.
ALTER DATABASE credentials OWNER TO credentials_owner;
