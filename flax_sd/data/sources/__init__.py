"""Where captioned images lie: folders, tables, archives; every file is accounted for."""
