"""Word lists shared by the generators. They are the same in both splits: what is held out are the contents."""

SHE = ("Mia", "Anna", "Lucy", "Emma", "Nora", "Ruth", "Zoe", "Clara")
HE = ("Tom", "Ben", "Sam", "Jack", "Leo", "Max", "Paul", "Oscar")
PEOPLE = SHE + HE
OBJECTS = (
    "apples",
    "books",
    "cards",
    "coins",
    "shells",
    "stamps",
    "pens",
    "stones",
    "marbles",
    "cookies",
    "buttons",
    "tickets",
)
PLACES = ("market", "school", "park", "garden", "beach", "library", "station", "river")
CONTAINERS = ("boxes", "bags", "packs", "trays")
