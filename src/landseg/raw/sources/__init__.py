"""Where raw datasets come from: folders, object storage, archives; the bytes of their files, and how these begin."""
