CREATE TABLE orders (
    id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku      text NOT NULL CHECK (sku <> ''),
    quantity integer NOT NULL CHECK (quantity > 0)
);
