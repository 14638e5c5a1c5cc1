"""Provide the word lists of the generators. Both splits use the same words; only the contents differ."""

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
