// Marp's settings for the deck: HTML from the build is kept, nothing is fetched from the network (emoji pictures, math fonts).
export default {
  html: true,
  browserTimeout: 180_000, // milliseconds, for a busy machine
  options: { emoji: { shortcode: false, unicode: false }, math: false },
}
