"""Labels as people have them: how they are read, which class a value or colour means, and what to say of the others."""
