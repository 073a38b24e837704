"""The facts of the small world: enough of each relation, and none on both sides."""

import random

import pytest

from pushback_lib.language import world


def test_there_are_at_least_eight_relations_of_forty_entities():
    sizes = {relation.name: len(relation.pairs) for relation in world.RELATIONS}
    assert len(sizes) >= 8
    assert min(sizes.values()) >= 40, sizes


@pytest.mark.parametrize("relation", world.RELATIONS, ids=lambda relation: relation.name)
def test_each_entity_has_one_value(relation):
    entities = [entity for entity, _ in relation.pairs]
    assert len(entities) == len(set(entities))


@pytest.mark.parametrize("relation", world.RELATIONS, ids=lambda relation: relation.name)
def test_each_relation_has_facts_on_both_sides(relation):
    for held_out in (True, False):
        assert sum(fact.relation is relation for fact in world.facts(held_out)) >= 5


def test_the_two_sides_share_no_entity():
    held_out = {fact.entity for fact in world.facts(held_out=True)}
    assert held_out.isdisjoint(fact.entity for fact in world.facts(held_out=False))


@pytest.mark.parametrize("pair", [("hot", "cold"), ("3 and 4", "4 and 3"), ("day", "night"), ("a dog", "dog")])
def test_what_belongs_together_is_held_out_together(pair):
    assert world.is_held_out(pair[0]) == world.is_held_out(pair[1])


def test_invented_words_are_new_and_many():
    rng = random.Random(0)
    words = {world.invented_word(rng) for _ in range(3000)}
    assert len(words) > 2500
    assert words.isdisjoint(world.KNOWN_WORDS)
