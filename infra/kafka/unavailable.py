"""What the client raises when Kafka is away, or goes; for whoever has to say so."""

from confluent_kafka import KafkaException as KafkaUnavailable

__all__ = ["KafkaUnavailable"]
