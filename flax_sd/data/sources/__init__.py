"""Where captioned pictures lie: folders, tables, archives; every file is accounted for."""
